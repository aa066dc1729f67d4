"""GIF (GIF89a specification): header, extensions and pictures made of sub-blocks, trailer."""

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

_SCREEN = struct.Struct("<6xHHB2x")  # width, height, flags
_PICTURE = struct.Struct("<8xB")  # flags of an image descriptor
_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B
_HAS_TABLE = 0x80
_MAX_SUB_BLOCKS = 4_000_000  # of at most 255 bytes: 1 GB


def measure(data: Data) -> tuple[int, int]:
    """Walk all blocks up to the trailer; return width and height in pixels."""
    width, height, flags = read_fields(_SCREEN, data, 0)
    size = check_dimensions(width, height)
    at, drawn, left = 13 + _table(flags), 0, _MAX_SUB_BLOCKS
    for _ in range(MAX_PARTS):
        kind = _byte(data, at)
        if kind == _TRAILER:
            if not drawn:
                raise NotThePictureError("a GIF file without a picture in it")
            return size
        at, left = _sub_blocks(data, _contents(data, at, kind), left)
        drawn += kind == _IMAGE
        check_frames(drawn)
    raise NotThePictureError(f"a GIF file of more than {MAX_PARTS} blocks")


def _contents(data: Data, at: int, kind: int) -> int:
    """Return the offset where the sub-blocks of a block begin."""
    if kind == _EXTENSION:
        return at + 2
    if kind == _IMAGE:
        (flags,) = read_fields(_PICTURE, data, at + 1)
        return at + 10 + _table(flags) + 1  # the byte is the LZW code size
    raise NotThePictureError(f"a damaged GIF file: no block at byte {at}")


def _sub_blocks(data: Data, at: int, left: int) -> tuple[int, int]:
    """Return the offset after a chain of sub-blocks, and how many more the file may have."""
    while length := _byte(data, at):
        at += 1 + length
        left -= 1
        if not left:
            raise NotThePictureError(f"a GIF file of more than {_MAX_SUB_BLOCKS} sub-blocks")
    return at + 1, left


def _byte(data: Data, at: int) -> int:
    if at >= len(data):
        raise truncated("the GIF file", at + 1, len(data))
    return data[at]


def _table(flags: int) -> int:
    """Return the length of a colour table in bytes."""
    return 3 << (flags & 7) + 1 if flags & _HAS_TABLE else 0
