"""PNG (RFC 2083, W3C PNG 3rd edition): chunks (length, name, data, CRC-32) from IHDR to IEND."""

import struct
import zlib

from receiver.archive.inspect.reader import (
    MAX_PARTS,
    Data,
    check_dimensions,
    check_frames,
    read_fields,
    truncated,
)
from receiver.errors import NotThePictureError

_CHUNK = struct.Struct(">I4s")  # length, name
# Width, height, bit depth, colour type, compression, filter, interlace.
_IHDR = struct.Struct(">IIBBBBB")
_CRC = struct.Struct(">I")
# Allowed bit depths by colour type.
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


def measure(data: Data) -> tuple[int, int]:
    """Walk all chunks, checking each CRC; return width and height in pixels."""
    size = _header(data)
    at, drawn, frames = 8, False, 0
    for _ in range(MAX_PARTS):
        name, at = _chunk(data, at)
        drawn = drawn or name == b"IDAT"
        frames += name == b"fcTL"  # one for each frame of an animation
        check_frames(frames)
        if name == b"IEND":
            if not drawn:
                raise NotThePictureError("a PNG file without a picture in it")
            return size
    raise NotThePictureError(f"a PNG file of more than {MAX_PARTS} chunks")


def _header(data: Data) -> tuple[int, int]:
    length, name = read_fields(_CHUNK, data, 8)
    width, height, depth, colour, *methods = read_fields(_IHDR, data, 16)
    if (
        name != b"IHDR"
        or length != _IHDR.size
        or depth not in _DEPTHS.get(colour, ())
        or methods not in ([0, 0, 0], [0, 0, 1])
    ):
        raise NotThePictureError("a PNG file with a broken header")
    return check_dimensions(width, height)


def _chunk(data: Data, at: int) -> tuple[bytes, int]:
    """Check one chunk; return its name and the offset of the next one."""
    length, name = read_fields(_CHUNK, data, at)
    end = at + 8 + length
    if end + _CRC.size > len(data):
        raise truncated(f"PNG chunk {name!r}", end + _CRC.size, len(data))
    # Both views are closed at once: an open view would keep the mmap from closing.
    with memoryview(data) as whole, whole[at + 4 : end] as covered:
        crc = zlib.crc32(covered)
    if (crc,) != read_fields(_CRC, data, end):
        raise NotThePictureError(f"a damaged PNG file: the checksum of chunk {name!r} is wrong")
    return name, end + _CRC.size
