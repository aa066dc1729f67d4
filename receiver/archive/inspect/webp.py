"""WebP (RFC 9649): a RIFF container of chunks.

The size is in the first chunk: VP8 (RFC 6386), VP8L or VP8X. Where a VP8L picture ends is seen only
by decoding it; its chunk's length counts.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from receiver.archive.inspect import vp8
from receiver.archive.inspect.reader import (
    MAX_PARTS,
    Data,
    Findings,
    check_dimensions,
    check_frames,
    quoted,
    read_fields,
    truncated,
)
from receiver.errors import NotThePictureError, TruncatedError

_RIFF = struct.Struct("<4xI4x")  # what follows these eight bytes
_CHUNK = struct.Struct("<4sI")  # name, length; padded to an even length
_VP8 = struct.Struct("<HB3sHH")  # frame tag (3 bytes), start code, width and height in 14 bits each
_VP8L = struct.Struct("<BI")  # signature, width-1 and height-1 in 14 bits each
_VP8X = struct.Struct("<4xHBHB")  # flags, canvas width-1 and height-1 in 24 bits each
_STILL = frozenset({b"VP8 ", b"VP8L"})
_FRAME, _FRAME_HEAD = b"ANMF", 16
_MARKS = {b"EXIF": "exif", b"XMP ": "xmp", b"C2PA": "c2pa"}


class Chunk(NamedTuple):
    """A chunk: its name, and the offsets where its data begins and ends."""

    name: bytes
    start: int
    end: int


def measure(data: Data, found: Findings) -> tuple[int, int]:
    """Walk all chunks; return width and height in pixels."""
    (length,) = read_fields(_RIFF, data, 0)
    end = length + 8
    if end > len(data):
        raise truncated("the WebP file", end, len(data))
    size = _size(data)
    found.end = end
    try:
        _walk(data, end, found)
    except TruncatedError:
        first = next(_chunks(data, 12, end))
        if first.name not in _STILL:
            raise
        _draw(data, first)
        # Without VP8X the first chunk is the whole picture.
        found.tolerate("stray bytes after the WebP picture")
    return size


def _walk(data: Data, end: int, found: Findings) -> None:
    drawn = 0
    for chunk in _chunks(data, 12, end):
        drawn += _draw(data, chunk)
        check_frames(drawn)
        if kind := _MARKS.get(chunk.name):
            found.mark_text(kind, chunk.name.strip(), data, chunk.start, chunk.end)
    if not drawn:
        raise NotThePictureError("a WebP file without a picture in it")


def _chunks(data: Data, at: int, end: int) -> Iterator[Chunk]:
    """Yield the chunks up to ``end``. Raise TruncatedError if one would end after that.

    The padding byte of the last chunk may be missing.
    """
    for _ in range(MAX_PARTS):
        if at + _CHUNK.size > end:
            raise truncated("a WebP chunk", at + _CHUNK.size, end)
        name, length = read_fields(_CHUNK, data, at)
        after = at + 8 + length
        if after > end:
            raise truncated(f"WebP chunk {quoted(name)}", after, end)
        yield Chunk(name, at + 8, after)
        at = after + length % 2
        if at >= end:
            return
    raise NotThePictureError(f"a WebP file of more than {MAX_PARTS} chunks")


def _draw(data: Data, chunk: Chunk) -> bool:
    """Return whether a chunk is a picture. Raise NotThePictureError if its parts do not fit."""
    if chunk.name == b"VP8 ":
        vp8.check_partitions(data, chunk.start, chunk.end)
    elif chunk.name == _FRAME:
        for inner in _chunks(data, chunk.start + _FRAME_HEAD, chunk.end):
            if inner.name == b"VP8 ":
                vp8.check_partitions(data, inner.start, inner.end)
    return chunk.name in _STILL or chunk.name == _FRAME


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
