"""Landscapes made from a seed: a sky, a sun and a few rows of hills; no two are equal.

The only module of the sandbox that needs Pillow. Flat areas encode quickly and to few bytes;
``pictures`` pads a file to the size that was asked for.
"""

import colorsys
import io
import math
import random
from typing import Literal

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

ImageFormat = Literal["png", "jpeg", "webp"]

_SAVE: dict[ImageFormat, dict[str, int]] = {
    "png": {"compress_level": 1},
    "jpeg": {"quality": 88},
    "webp": {"quality": 80, "method": 0},
}


def draw_landscape(seed: str, width: int, height: int, form: ImageFormat) -> bytes:
    """Return the landscape of a seed, ``width`` x ``height`` pixels, as a file of this format."""
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose, not a secret
    hue = rng.random()
    # Smooth only in the direction that varies: a tenth of the time of a smooth resize.
    picture = (
        _sky(rng, hue)
        .resize((1, height), Image.Resampling.BICUBIC)
        .resize((width, height), Image.Resampling.NEAREST)
    )
    _sun(ImageDraw.Draw(picture, "RGBA"), rng, hue, width, height)
    draw = ImageDraw.Draw(picture)
    rows = rng.randint(3, 5)
    for row in range(rows):
        _hills(
            draw,
            rng,
            _colour(hue + 0.55, 0.5, 0.62 - 0.5 * (row + 1) / rows),
            width,
            height * (0.5 + 0.4 * row / rows),
            height,
        )
    out = io.BytesIO()
    picture.save(out, form.upper(), **_SAVE[form])
    return out.getvalue()


def _sky(rng: random.Random, hue: float) -> Image.Image:
    """Return a sky of 1 x 4 pixels, which the caller stretches."""
    sky = Image.new("RGB", (1, 4))
    for row in range(4):
        sky.putpixel(
            (0, row),
            _colour(hue + 0.05 * row, 0.65 - 0.12 * row, 0.55 + 0.12 * row + 0.04 * rng.random()),
        )
    return sky


def _sun(
    draw: ImageDraw.ImageDraw, rng: random.Random, hue: float, width: int, height: int
) -> None:
    """Draw a disc with three rings of glow in the upper half."""
    x, y, radius = (
        width * rng.uniform(0.15, 0.85),
        height * rng.uniform(0.12, 0.42),
        min(width, height) * rng.uniform(0.06, 0.12),
    )
    for scale, alpha in ((2.6, 28), (1.9, 44), (1.4, 70), (1.0, 255)):
        reach = radius * scale
        draw.ellipse(
            (x - reach, y - reach, x + reach, y + reach),
            fill=(*_colour(hue + 0.08, 0.25, 1.0), alpha),
        )


def _hills(
    draw: ImageDraw.ImageDraw,
    rng: random.Random,
    colour: Colour,
    width: int,
    top: float,
    height: int,
) -> None:
    """Draw one row of hills: the sum of two waves, filled down to the lower edge."""
    swell, turns, phase = (
        height * rng.uniform(0.03, 0.09),
        rng.uniform(0.6, 2.2),
        rng.uniform(0, math.tau),
    )
    step = max(1, width // 96)
    ridge = []
    for x in range(0, width + step, step):
        angle = math.tau * turns * x / width + phase
        ridge.append((x, top + swell * (math.sin(angle) + 0.35 * math.sin(2.7 * angle))))
    draw.polygon([*ridge, (width + step, height), (0, height)], fill=colour)


def _colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(
        hue % 1.0, min(1.0, max(0.0, saturation)), min(1.0, max(0.0, value))
    )
    return int(red * 255), int(green * 255), int(blue * 255)
