"""WebP (RFC 9649): a RIFF container of chunks.

The size is in the first chunk: VP8 (RFC 6386), VP8L or VP8X.
"""

import struct

from receiver.archive.inspect.reader import (
    MAX_PARTS,
    Data,
    check_dimensions,
    check_frames,
    read_fields,
    truncated,
)
from receiver.errors import NotThePictureError

_RIFF = struct.Struct("<4xI4x")  # what follows these eight bytes
_CHUNK = struct.Struct("<4sI")  # name, length; padded to an even length
_VP8 = struct.Struct("<HB3sHH")  # frame tag (3 bytes), start code, width and height in 14 bits each
_VP8L = struct.Struct("<BI")  # signature, width-1 and height-1 in 14 bits each
_VP8X = struct.Struct("<4xHBHB")  # flags, canvas width-1 and height-1 in 24 bits each
_PICTURES = frozenset({b"VP8 ", b"VP8L", b"ANMF"})


def measure(data: Data) -> tuple[int, int]:
    """Walk all chunks; return width and height in pixels."""
    (length,) = read_fields(_RIFF, data, 0)
    end = length + 8
    if end > len(data):
        raise truncated("the WebP file", end, len(data))
    size = _size(data)
    at, drawn = 12, 0
    for _ in range(MAX_PARTS):
        name, at = _chunk(data, at, end)
        drawn += name in _PICTURES
        check_frames(drawn)
        if at >= end:
            if not drawn:
                raise NotThePictureError("a WebP file without a picture in it")
            return size
    raise NotThePictureError(f"a WebP file of more than {MAX_PARTS} chunks")


def _chunk(data: Data, at: int, end: int) -> tuple[bytes, int]:
    """Return the name of a chunk and the offset of the next one.

    The padding byte of the last chunk may be missing.
    """
    name, length = read_fields(_CHUNK, data, at)
    after = at + 8 + length
    if after > end:
        raise truncated(f"WebP chunk {name!r}", after, end)
    return name, after + length % 2


def _size(data: Data) -> tuple[int, int]:
    name, _ = read_fields(_CHUNK, data, 12)
    if name == b"VP8 ":
        tag, _, start, width, height = read_fields(_VP8, data, 20)
        if start == b"\x9d\x01\x2a" and not tag & 1:  # the lowest bit is clear in a key frame
            return check_dimensions(width & 0x3FFF, height & 0x3FFF)
    if name == b"VP8L":
        signature, bits = read_fields(_VP8L, data, 20)
        # RFC 9649, 3.4: the bits above the two sizes are alpha and a version, which is 0.
        if signature == 0x2F and not bits >> 29:  # noqa: PLR2004 - see above
            return check_dimensions((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if name == b"VP8X":
        width, width_high, height, height_high = read_fields(_VP8X, data, 20)
        return check_dimensions((width_high << 16 | width) + 1, (height_high << 16 | height) + 1)
    raise NotThePictureError("a WebP file with a broken header")
