"""A program that makes a small, square WebP of an uploaded picture: standard input to standard output.

app/models/pictures.py runs it in a process of its own. So the system bounds its time and memory, a decoder that crashes
takes nobody's request along, and the web processes never import Pillow.

It imports nothing of Pipit, which would take half a second. Its exit status is one of those below; any other means that
it ran into a limit.
"""

import fcntl
import io
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

UNKNOWN, TOO_LARGE, BROKEN = 3, 4, 5  # exit statuses

SIDE = 256  # pixels; a profile shows 4.5rem, which is 216 on a phone with three pixels for each of CSS's
QUALITY = 75  # of 100; some 8 kB of a photo
FORMATS = ("JPEG", "PNG", "WEBP", "GIF")  # that Pillow may recognise; of a JPEG with several pictures it says "MPO"
MOST_PIXELS_OF_JPEG = 50_000_000  # its decoder makes it smaller as it goes
MOST_PIXELS = 16_000_000  # of the others; while a WebP is decoded, each pixel takes 16 bytes
SECONDS = 5  # of computing; a photo takes 0.2, the worst that is accepted 1.5
MEMORY = 320 * 2**20  # bytes; a photo takes 30 MB, the worst that is accepted 310


def main() -> None:
    """Make the small picture, or exit with a status that says why not."""
    os.nice(5)  # visitors go first
    with suppress(ValueError, OSError):  # macOS refuses to set it
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    with Path(__file__).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one at a time on this machine, or a small one would run out of memory
        sys.stdout.buffer.write(shrunk(sys.stdin.buffer.read()))


def shrunk(upload: bytes) -> bytes:
    """Return the middle of a picture as WebP; of an animation, that of the first frame. Exits if it can't be read."""
    from PIL import Image, UnidentifiedImageError, WebPImagePlugin  # noqa: F401  # Pillow does not always load the last

    Image.MAX_IMAGE_PIXELS = None  # Pillow has one limit for all formats
    try:
        picture: Picture = Image.open(io.BytesIO(upload), formats=FORMATS)
        is_jpeg = picture.format in ("JPEG", "MPO")
        # Only the head has been read so far.
        if picture.width * picture.height > (MOST_PIXELS_OF_JPEG if is_jpeg else MOST_PIXELS):
            sys.exit(TOO_LARGE)
        return _encoded(_in_srgb(_middle(picture)))
    except UnidentifiedImageError:
        sys.exit(UNKNOWN)
    except MemoryError:
        sys.exit(TOO_LARGE)
    except Exception:  # noqa: BLE001  # a damaged file raises whatever its format's module runs into
        sys.exit(BROKEN)


def _middle(picture: "Picture") -> "Picture":
    """Return the middle of a picture, SIDE pixels wide and high, the right way up."""
    from PIL import Image, ImageOps

    picture.draft("RGB", (2 * SIDE, 2 * SIDE))  # JPEG's decoder halves a picture, up to three times, at little cost
    if picture.mode not in ("RGB", "RGBA", "CMYK"):
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    small = ImageOps.fit(picture, (SIDE, SIDE), Image.Resampling.LANCZOS)
    return ImageOps.exif_transpose(small)  # cameras turn nothing, but note how they were held


def _in_srgb(picture: "Picture") -> "Picture":
    """Return a picture with the colours that its profile means, and on white where it is transparent."""
    from PIL import Image, ImageCms

    profile = picture.info.get("icc_profile")
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    if profile:
        with suppress(ImageCms.PyCMSError, OSError):  # it is damaged, or for another kind of picture
            srgb = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(picture, io.BytesIO(profile), srgb, outputMode="RGB")
            return converted or picture
    return picture.convert("RGB")


def _encoded(picture: "Picture") -> bytes:
    """Return a picture as WebP, without metadata: where it was taken is nobody's business."""
    encoded = io.BytesIO()
    picture.save(encoded, "WEBP", quality=QUALITY, method=6, exif=b"", icc_profile=b"", xmp=b"")
    return encoded.getvalue()


if __name__ == "__main__":
    main()
