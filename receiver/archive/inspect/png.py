"""PNG (RFC 2083, W3C PNG 3rd edition): chunks (length, name, data, CRC-32) from IHDR to IEND.

A wrong CRC is tolerated if all pixels are right: in an ancillary chunk, and in an IDAT chunk if the
compressed data agrees with its own checksum. If it does not, the file is unfinished if the data has
all pixels and its own end. A file that ends before IEND, or goes on with something else, is
unfinished if its compressed data has all pixels.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

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

_CHUNK = struct.Struct(">I4s")  # length, name
# Width, height, bit depth, colour type, compression, filter, interlace.
_IHDR = struct.Struct(">IIBBBBB")
_ACTL = struct.Struct(">I")  # frames of an animation
_CRC = struct.Struct(">I")
# Allowed bit depths, and samples of a pixel, by colour type.
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Adam7: first column, first row, distance of columns, distance of rows of each pass.
_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
# Bytes: pixels are counted for unfinished files only, and in no larger picture.
_MAX_COUNTED = 1 << 30
# Bytes that are decompressed at once; of a longer input zlib would copy the rest each time.
_DEFLATED_AT_ONCE, _INFLATED_AT_ONCE = 1 << 16, 1 << 20
_ZLIB_HEAD = 2  # bytes before the compressed data
_ANCILLARY = 0x20  # the bit of a name's first letter
_XMP = b"XML:com.adobe.xmp"


class Chunk(NamedTuple):
    """A chunk: its name, and the offsets where its data begins and ends."""

    name: bytes
    start: int
    end: int


def measure(data: Data, found: Findings) -> tuple[int, int]:
    """Walk all chunks, checking each CRC; return width and height in pixels."""
    size = _header(data)
    try:
        _walk(data, found)
    except TruncatedError:
        if not _has_all_pixels(data):
            raise
        found.unfinished = "; ".join(
            filter(None, [found.unfinished, "the end of the PNG file (IEND) is missing"])
        )
    return size


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


def _walk(data: Data, found: Findings) -> None:
    drawn, frames, damaged = False, 0, set[bytes]()
    for chunk in _chunks(data):
        if chunk.name == b"IEND":
            if not drawn:
                raise NotThePictureError("a PNG file without a picture in it")
            found.end = chunk.end + _CRC.size
            return
        if chunk.name not in damaged and not _has_right_crc(data, chunk):
            damaged.add(chunk.name)  # computed once, because it may have to inflate all pixels
            _check_damage(data, chunk, found)
        drawn = drawn or chunk.name == b"IDAT"
        frames += chunk.name == b"fcTL"  # one for each frame of an animation
        check_frames(frames)
        _mark(data, chunk, found)


def _check_damage(data: Data, chunk: Chunk, found: Findings) -> None:
    """Record a chunk with a wrong checksum. Raise NotThePictureError if it cannot be tolerated."""
    if not chunk.name.isalpha():
        raise TruncatedError(f"cut short: no PNG chunk at byte {chunk.start - _CHUNK.size}")
    broken = NotThePictureError(
        f"a damaged PNG file: the checksum of chunk {quoted(chunk.name)} is wrong"
    )
    # The compressed data has a checksum of its own.
    if chunk.name == b"fdAT" or (chunk.name == b"IDAT" and not _is_sound(data)):
        if not _has_all_pixels(data, with_end=chunk.name == b"IDAT"):
            raise broken
        found.unfinished = "the pixels do not agree with their checksum"
    elif not (chunk.name[0] & _ANCILLARY or chunk.name == b"IDAT"):
        raise broken
    found.tolerate(f"the checksum of PNG chunk {quoted(chunk.name)} is wrong")


def _chunks(data: Data) -> Iterator[Chunk]:
    """Yield the chunks. Raise TruncatedError if one ends after the file."""
    at = 8
    for _ in range(MAX_PARTS):
        length, name = read_fields(_CHUNK, data, at)
        end = at + 8 + length
        if end + _CRC.size > len(data):
            raise truncated(f"PNG chunk {quoted(name)}", end + _CRC.size, len(data))
        yield Chunk(name, at + 8, end)
        at = end + _CRC.size
    raise NotThePictureError(f"a PNG file of more than {MAX_PARTS} chunks")


def _has_right_crc(data: Data, chunk: Chunk) -> bool:
    # Both views are closed at once: an open view would keep the mmap from closing.
    with memoryview(data) as whole, whole[chunk.start - 4 : chunk.end] as covered:
        crc = zlib.crc32(covered)
    return bool((crc,) == read_fields(_CRC, data, chunk.end))


def _mark(data: Data, chunk: Chunk, found: Findings) -> None:
    name, start, end = chunk
    if name == b"caBX":
        found.mark("c2pa", name, end - start)
    elif name == b"eXIf":
        found.mark("exif", name, end - start)
    elif name in {b"tEXt", b"zTXt", b"iTXt"}:
        keyword = data[start : min(end, start + 80)].partition(b"\0")[0]
        if keyword == _XMP:
            found.mark_text("xmp", name, data, start + len(_XMP), end)
        else:
            found.mark_text("text", keyword, data, start, end)


def _has_all_pixels(data: Data, *, with_end: bool = False) -> bool:
    """Return whether a file without its end has all pixels of a still picture.

    With ``with_end`` the compressed data must also have its own end. In an animation every
    announced frame must be there, with something after it.
    """
    width, height, depth, colour, _, _, interlaced = read_fields(_IHDR, data, 16)
    bits = depth * _SAMPLES[colour]
    needed: int = sum(
        rows * (1 + (columns * bits + 7) // 8)
        for columns, rows in _passes(width, height, interlaced=bool(interlaced))
        if columns
    )
    if needed > _MAX_COUNTED:
        return False
    # Data after all pixels is not looked at, except for the end.
    there, has_end = _inflate(data, _MAX_COUNTED if with_end else needed, is_checked=False)
    return there >= needed and (has_end or not with_end) and _has_all_frames(data)


def _passes(width: int, height: int, *, interlaced: bool) -> list[tuple[int, int]]:
    """Return the columns and rows of each pass."""
    if not interlaced:
        return [(width, height)]
    return [
        (-(-max(width - left, 0) // across), -(-max(height - top, 0) // down))
        for left, top, across, down in _PASSES
    ]


def _is_sound(data: Data) -> bool:
    """Return whether the compressed data is whole and agrees with its own checksum."""
    return _inflate(data, _MAX_COUNTED, is_checked=True)[1]


def _inflate(data: Data, limit: int, *, is_checked: bool) -> tuple[int, bool]:
    """Inflate up to ``limit`` bytes; return how many there are, and whether the end was reached.

    Without ``is_checked`` the checksum after the data is ignored. The data ends at the first error.
    """
    skipped = 0 if is_checked else _ZLIB_HEAD
    inflater, there = zlib.decompressobj(zlib.MAX_WBITS if is_checked else -zlib.MAX_WBITS), 0
    try:
        for start, end in _compressed(data):
            begin = min(start + skipped, end)
            skipped -= begin - start
            with memoryview(data) as whole, whole[begin:end] as part:
                rest: bytes | memoryview = part
                while len(rest) and there < limit and not inflater.eof:
                    there += len(inflater.decompress(rest, _INFLATED_AT_ONCE))
                    rest = inflater.unconsumed_tail
    except zlib.error:
        return there, False
    return there, inflater.eof


def _compressed(data: Data) -> Iterator[tuple[int, int]]:
    """Yield where the data of IDAT chunks begins and ends, in pieces."""
    at = 8
    for _ in range(MAX_PARTS):
        if at + _CHUNK.size > len(data):
            return
        length, name = read_fields(_CHUNK, data, at)
        end = min(at + 8 + length, len(data))
        if name == b"IDAT":
            for start in range(at + 8, end, _DEFLATED_AT_ONCE):
                yield start, min(start + _DEFLATED_AT_ONCE, end)
        at = end + _CRC.size


def _has_all_frames(data: Data) -> bool:
    announced = frames = 0
    last = b""
    try:
        for name, start, _ in _chunks(data):
            if name == b"acTL":
                (announced,) = read_fields(_ACTL, data, start)
            frames += name == b"fcTL"
            last = name
    except TruncatedError:
        pass
    return frames >= announced and last != b"fcTL"
