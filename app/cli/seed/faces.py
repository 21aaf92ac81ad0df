"""Pictures of the people of Wendbridge, drawn from their names: a head and shoulders, or hills under a sun."""

import colorsys
import io
import math
import zlib
from random import Random

from PIL import Image, ImageDraw

from app.models.shrink_picture import QUALITY, SIDE

EDGES = 4  # times as large as shown while it is drawn, which makes the edges smooth
SKIN = ["#f6d7bd", "#e8b48f", "#c98c62", "#9c6742", "#6e442b", "#f1c7a3"]
HAIR = ["#2b211d", "#5a3a22", "#8d5a2b", "#c9a25a", "#b8b2a8", "#7a2e1d"]

Colour = tuple[int, int, int]


def drawn(name: str) -> bytes:
    """Return a picture as WebP, the same at each call."""
    rng = Random(zlib.crc32(name.encode()))  # noqa: S311  # nothing secret
    size = SIDE * EDGES
    picture = Image.linear_gradient("L").resize((size, size))
    hue = rng.random()
    upper, lower = _colour(hue, 0.35, 0.95), _colour(hue + 0.08, 0.55, 0.75)
    picture = Image.composite(Image.new("RGB", picture.size, lower), Image.new("RGB", picture.size, upper), picture)
    draw = ImageDraw.Draw(picture)
    (_draw_hills if rng.random() < 0.3 else _draw_head)(draw, size, hue, rng)
    encoded = io.BytesIO()
    picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(encoded, "WEBP", quality=QUALITY)
    return encoded.getvalue()


def _draw_head(draw: ImageDraw.ImageDraw, size: int, hue: float, rng: Random) -> None:
    skin, hair = rng.choice(SKIN), rng.choice(HAIR)
    if rng.random() < 0.5:  # long hair, behind the shoulders
        _ellipse(draw, size, 0.5, 0.52, 0.27, 0.34, hair)
    _ellipse(draw, size, 0.5, 1.08, 0.42, 0.34, _colour(hue + 0.5, 0.5, rng.uniform(0.45, 0.85)))
    draw.rectangle((0.43 * size, 0.55 * size, 0.57 * size, 0.8 * size), skin)
    _ellipse(draw, size, 0.5, 0.36, 0.23, 0.22, hair)
    _ellipse(draw, size, 0.5, 0.45, 0.19, 0.23, skin)
    draw.pieslice((0.31 * size, 0.2 * size, 0.69 * size, 0.6 * size), rng.choice([180, 195]), 360, hair)


def _draw_hills(draw: ImageDraw.ImageDraw, size: int, hue: float, rng: Random) -> None:
    _ellipse(draw, size, rng.uniform(0.25, 0.75), 0.34, 0.13, 0.13, "#fff3cf")
    for nearer, height in enumerate((0.55, 0.68, 0.82)):
        phase, waves = rng.uniform(0, 6), rng.uniform(4, 8)
        edge = [(x / 40, height + 0.06 * math.sin(phase + waves * x / 40)) for x in range(41)]
        points = [(x * size, y * size) for x, y in [*edge, (1, 1), (0, 1)]]
        draw.polygon(points, _colour(hue + 0.35, 0.4, 0.7 - 0.18 * nearer))


def _ellipse(
    draw: ImageDraw.ImageDraw, size: int, x: float, y: float, wide: float, high: float, colour: str | Colour
) -> None:
    """Draw an ellipse around a point, with these radii; all of it as parts of the size."""
    draw.ellipse(((x - wide) * size, (y - high) * size, (x + wide) * size, (y + high) * size), colour)


def _colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return int(255 * red), int(255 * green), int(255 * blue)
