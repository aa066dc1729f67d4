"""Reading fields within a file, and the limits for hostile files; used by every format."""

import mmap
import struct
from typing import Any

from receiver.errors import NotThePictureError

Data = bytes | mmap.mmap

MAX_SIDE = 65_535  # pixels
MAX_AREA = 1_000_000_000  # pixels
# Frames of one animation: 17 minutes at ten frames per second. Longer films come as MP4.
MAX_FRAMES = 10_000
# Chunks, segments or blocks: 1.6 GB in libpng's 8 KiB chunks, walked in a fraction of a second.
MAX_PARTS = 200_000


def read_fields(layout: struct.Struct, data: Data, at: int) -> tuple[Any, ...]:
    """Return the fields of a structure at an offset. Raise NotThePictureError at the file's end."""
    if at + layout.size > len(data):
        raise truncated("the file", at + layout.size, len(data))
    return layout.unpack_from(data, at)


def truncated(what: str, needed: int, there: int) -> NotThePictureError:
    """Return the error for a part that ends at byte ``needed`` of a file with ``there`` bytes."""
    return NotThePictureError(
        f"cut short: {what} would go on to byte {needed}, the file ends at {there}"
    )


def check_frames(count: int) -> None:
    """Raise NotThePictureError for too many frames: a decoder pays for each of them."""
    if count > MAX_FRAMES:
        raise NotThePictureError(f"not a picture: more than {MAX_FRAMES} frames")


def check_dimensions(width: int, height: int) -> tuple[int, int]:
    """Return width and height. Raise NotThePictureError if no picture can have this size."""
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_AREA):
        raise NotThePictureError(f"not a picture: {width} x {height} pixels")
    return width, height
