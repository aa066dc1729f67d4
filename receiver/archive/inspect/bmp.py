"""BMP (Windows bitmap, headers of 12 to 124 bytes): a table of pixels of known length."""

import struct

from receiver.archive.inspect.reader import (
    Data,
    Findings,
    check_dimensions,
    read_fields,
    truncated,
)
from receiver.errors import NotThePictureError

_PIXELS = struct.Struct("<10xII")  # where the pixels begin, length of the second header
_CORE = struct.Struct("<18xHHHH")  # width, height, planes, bits of a pixel
_INFO = struct.Struct("<18xiiHHII")  # the same; compression, bytes of the pixels
_CORE_LENGTH = 12
_PLAIN, _RLE, _MASKS = (0,), (1, 2), (3, 6)
_DEPTHS = (1, 2, 4, 8, 16, 24, 32)


def measure(data: Data, found: Findings) -> tuple[int, int]:
    """Check that all pixels are there; return width and height in pixels."""
    start, header = read_fields(_PIXELS, data, 0)
    if header == _CORE_LENGTH:
        width, height, _, depth = read_fields(_CORE, data, 0)
        compression, size = 0, 0
    else:
        width, height, _, depth, compression, size = read_fields(_INFO, data, 0)
    if compression not in (*_PLAIN, *_RLE, *_MASKS) or depth not in _DEPTHS:
        raise NotThePictureError("a BMP file of an unknown kind")
    dimensions = check_dimensions(width, abs(height))
    if compression not in _RLE:
        size = (width * depth + 31) // 32 * 4 * abs(height)
    if not size:
        raise NotThePictureError("a BMP file that does not say its length")
    if start + size > len(data):
        raise truncated("the BMP file", start + size, len(data))
    found.end = start + size
    return dimensions
