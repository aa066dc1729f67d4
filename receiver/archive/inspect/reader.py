"""What every format's walk needs: reading within the file, and limits on what a hostile file can ask for."""

import mmap
import struct
from typing import Any

from receiver.errors import NotThePictureError

Data = bytes | mmap.mmap

MAX_SIDE = 65_535  # pixels
MAX_AREA = 1_000_000_000  # pixels
MAX_FRAMES = 10_000  # of one moving picture: a quarter of an hour at ten a second; what is longer is a film, and comes as MP4
MAX_PARTS = 200_000  # chunks, segments, frames or boxes: 1.6 GB in libpng's 8 KiB chunks, a fraction of a second to walk


def read_fields(layout: struct.Struct, data: Data, at: int) -> tuple[Any, ...]:
    """Read a structure at an offset; NotThePictureError if the file ends before it does."""
    if at + layout.size > len(data):
        raise truncated("the file", at + layout.size, len(data))
    return layout.unpack_from(data, at)


def truncated(what: str, needed: int, there: int) -> NotThePictureError:
    """Make the error for a piece that would end (``needed``) after the bytes do (``there``)."""
    return NotThePictureError(
        f"cut short: {what} would go on to byte {needed}, the file ends at {there}"
    )


def check_frames(count: int) -> None:
    """Return if a moving picture can have so many frames: whoever decodes it pays for each of them."""
    if count > MAX_FRAMES:
        raise NotThePictureError(f"not a picture: more than {MAX_FRAMES} frames")


def check_dimensions(width: int, height: int) -> tuple[int, int]:
    """Return width and height if a picture can have them."""
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_AREA):
        raise NotThePictureError(f"not a picture: {width} x {height} pixels")
    return width, height
