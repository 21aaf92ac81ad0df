"""Small pictures of uploaded ones: what is accepted, what is refused and why, and that neither takes long."""

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageCms, ImageDraw
from sqlalchemy import func, select

from app.extensions import db
from app.models import Picture, User, pictures, shrink_picture
from app.models.pictures import PictureError, digest_of, made_small
from app.models.shrink_picture import SIDE
from tests.conftest import in_threads

RED, GREEN, BLUE = (220, 20, 20), (20, 200, 20), (20, 20, 220)
MODES = {
    "JPEG": ["RGB", "L", "CMYK"],
    "MPO": ["RGB"],  # a JPEG with several pictures in it
    "PNG": ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"],
    "WEBP": ["RGB", "RGBA"],
    "GIF": ["P", "L"],
}
ORIENTATION, GPS, MAKE = 0x0112, 0x8825, 0x010F  # of EXIF
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def upright() -> Image.Image:
    """Return a picture that is red above and green below in its middle, and blue at both sides."""
    picture = Image.new("RGB", (400, 200), BLUE)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((100, 0, 299, 99), RED)
    draw.rectangle((100, 100, 299, 199), GREEN)
    return picture


def opened(webp: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(webp))
    assert (picture.format, picture.size, picture.mode) == ("WEBP", (SIDE, SIDE), "RGB")
    return picture


def colours(webp: bytes) -> tuple[str, str]:
    """Return which of red, green and blue is strongest above and below."""
    picture = opened(webp)
    pixels = [picture.getpixel((SIDE // 2, y)) for y in (SIDE // 4, 3 * SIDE // 4)]
    above, below = ("rgb"[max(range(3), key=lambda channel: pixel[channel])] for pixel in pixels)  # type: ignore[index]
    return above, below


def png_head(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of one bit a pixel that says it has this size, with these chunks."""
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


@pytest.mark.parametrize(("kind", "modes"), MODES.items())
def test_a_picture_of_any_accepted_kind_becomes_a_small_square(kind: str, modes: list[str]) -> None:
    for mode in modes:
        source = upright()
        if mode == "P":
            source = source.quantize(8)
        elif mode == "I;16":
            source = source.convert("I").convert("I;16")
        else:
            source = source.convert(mode, dither=Image.Dither.NONE)
        webp = made_small(encoded(source, kind))
        assert len(webp) < 12_000
        opened(webp)
        if mode in ("RGB", "P", "RGBA", "CMYK"):
            assert colours(webp) == ("r", "g")


def test_a_picture_is_turned_as_the_camera_was_held() -> None:
    turned = {1: ("r", "g"), 3: ("g", "r"), 4: ("g", "r"), 2: ("r", "g")}
    for orientation, seen in turned.items():
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        assert colours(made_small(encoded(upright(), "JPEG", exif=exif))) == seen
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    lying = upright().rotate(90, expand=True)
    assert colours(made_small(encoded(lying, "JPEG", exif=exif))) == ("r", "g")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_nothing_but_the_picture_is_kept(kind: str) -> None:
    exif = Image.Exif()
    exif[MAKE] = "a camera"
    exif.get_ifd(GPS)[1] = "N"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    upload = encoded(upright(), kind, exif=exif, icc_profile=profile, comment=b"from home", xmp=b"<x>from home</x>")
    assert b"a camera" in upload
    webp = made_small(upload)
    for word in (b"a camera", b"from home", b"EXIF", b"XMP ", b"ICCP"):
        assert word not in webp
    assert not opened(webp).getexif()


def test_transparency_becomes_white() -> None:
    white = opened(made_small(encoded(Image.new("RGBA", (50, 50), (0, 0, 0, 0)))))
    assert white.getpixel((9, 9)) == (255, 255, 255)


def test_of_an_animation_the_first_frame_is_kept() -> None:
    first, second = Image.new("RGB", (90, 90), RED), Image.new("RGB", (90, 90), GREEN)
    for kind in ("GIF", "WEBP", "PNG"):
        assert colours(made_small(encoded(first, kind, save_all=True, append_images=[second]))) == ("r", "r")


def test_one_pixel_is_enough() -> None:
    opened(made_small(encoded(Image.new("RGB", (1, 1)))))
    opened(made_small(encoded(Image.new("RGB", (1, 3000)))))


@pytest.mark.parametrize(
    ("upload", "says"),
    [
        (b"", pictures.NOT_A_PICTURE),
        (b"hello", pictures.NOT_A_PICTURE),
        (SVG, pictures.NOT_A_PICTURE),
        (b"%PDF-1.7\n", pictures.NOT_A_PICTURE),
        (encoded(upright(), "BMP"), pictures.NOT_A_PICTURE),
        (encoded(upright(), "TIFF"), pictures.NOT_A_PICTURE),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", pictures.NOT_A_PICTURE),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), pictures.IS_HEIC),
        (encoded(upright(), "JPEG")[:-900], pictures.DAMAGED),
        (encoded(upright(), "PNG")[:-100], pictures.DAMAGED),
        (encoded(upright(), "WEBP")[:-50], pictures.DAMAGED),
        (encoded(upright(), "GIF")[:60], pictures.DAMAGED),
        (png_head(5000, 5000, (b"IDAT", b"")), pictures.TOO_MANY_PIXELS),
        (png_head(2**31 - 1, 2**31 - 1, (b"IDAT", b"")), pictures.TOO_MANY_PIXELS),
        (png_head(9, 9, (b"iCCP", b"x\0\0" + zlib.compress(bytes(10**8), 9)), (b"IDAT", b"")), pictures.DAMAGED),
    ],
    ids=lambda value: None if isinstance(value, str) else value[:12].hex(),
)
def test_what_cannot_be_a_picture_is_refused_with_the_reason(upload: bytes, says: str) -> None:
    with pytest.raises(PictureError) as error:
        made_small(upload)
    assert str(error.value) == says


def test_a_decompression_bomb_is_refused_by_its_head() -> None:
    bomb = encoded(Image.new("1", (30_000, 30_000)))
    assert len(bomb) < 200_000
    with pytest.raises(PictureError, match="too many pixels"):
        made_small(bomb)


@pytest.mark.server
@pytest.mark.parametrize(("limit", "value"), [("SECONDS = 5", "SECONDS = 0"), ("MEMORY = 320", "MEMORY = 60")])
def test_the_system_ends_what_takes_too_much(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, limit: str, value: str
) -> None:
    program = tmp_path / "shrink_picture.py"
    source = Path(shrink_picture.__file__).read_text()
    assert limit in source
    program.write_text(source.replace(limit, value))
    monkeypatch.setattr(shrink_picture, "__file__", str(program))
    with pytest.raises(PictureError):
        made_small(encoded(Image.new("RGB", (4000, 4000)), "WEBP", method=0))


def test_a_jpeg_with_a_scan_that_is_repeated_is_refused_unread() -> None:
    jpeg = encoded(upright().convert("RGB"), "JPEG", progressive=True)
    assert made_small(jpeg)
    *_, last = pictures.SCAN.finditer(jpeg)
    scan = jpeg[last.start() : -2]
    with pytest.raises(PictureError) as error:
        made_small(jpeg[:-2] + scan * pictures.MOST_SCANS + jpeg[-2:])
    assert str(error.value) == pictures.TOO_MUCH_WORK


def test_a_program_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "shrink_picture.py"
    program.write_text("import signal\nsignal.pause()")
    monkeypatch.setattr(shrink_picture, "__file__", str(program))
    monkeypatch.setattr(pictures, "PATIENCE", 0.3)
    with pytest.raises(PictureError) as error:
        made_small(encoded(upright()))
    assert str(error.value) == pictures.TOO_MUCH_WORK


def test_a_program_that_fails_is_logged_without_the_upload(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = tmp_path / "shrink_picture.py"
    program.write_text("import a_module_that_is_missing")
    monkeypatch.setattr(shrink_picture, "__file__", str(program))
    with pytest.raises(PictureError):
        made_small(encoded(upright()))
    assert "No module named 'a_module_that_is_missing'" in caplog.text


def test_the_program_gets_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "shrink_picture.py"
    program.write_text("import os, sys\nsys.stdout.write(repr(dict(os.environ)))")
    monkeypatch.setattr(shrink_picture, "__file__", str(program))
    monkeypatch.setenv("SECRET_KEY", "the one")
    assert b"the one" not in made_small(b"")


def test_one_who_waits_too_long_for_the_others_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "QUEUE", 0.01)
    with pictures._one_at_a_time, pytest.raises(PictureError) as error:
        made_small(encoded(upright()))
    assert str(error.value) == pictures.BUSY
    made_small(encoded(upright()))


def test_a_web_process_never_imports_pillow() -> None:
    program = "import sys, app.web.pictures; sys.exit('PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_user_has_one_picture_and_its_digest(make_user: Callable[[str], User]) -> None:
    ada, bob = make_user("ada"), make_user("bob")
    for webp in (b"one", b"two"):
        Picture.give(ada, webp)
    Picture.give(bob, b"two")
    assert Picture.with_digest(digest_of(b"one")) is None
    assert Picture.with_digest(digest_of(b"two")) == b"two"
    assert ada.picture == bob.picture == digest_of(b"two")
    Picture.remove(ada)
    assert ada.picture == ""
    assert Picture.with_digest(digest_of(b"two")) == b"two"  # bob's
    bob.delete_account()
    assert Picture.with_digest(digest_of(b"two")) is None
    assert db.session.scalar(select(func.count()).select_from(Picture)) == 0


@pytest.mark.server
def test_of_two_pictures_at_the_same_time_one_is_kept_whole(make_user: Callable[[str], User], app: "object") -> None:
    make_user("ada")
    webps = [f"picture {number}".encode() for number in range(6)]

    def give(number: int) -> None:
        with app.app_context():  # type: ignore[attr-defined]
            user = User.named("ada")
            assert user
            Picture.give(user, webps[number])

    in_threads(len(webps), give)
    db.session.rollback()
    (digest,) = db.session.scalars(select(User.picture))
    (kept,) = db.session.scalars(select(Picture.webp))
    assert digest == digest_of(kept)
