"""AVIF (AV1 Image File Format 1.1): pictures are items, whose places ``iloc`` says; HEIF, 23008-12.

A sequence (brand ``avis``) may have a track only, which is read as in MP4.
"""

import math
import struct
from collections.abc import Iterator
from typing import NamedTuple

from receiver.archive.inspect import mp4
from receiver.archive.inspect.boxes import Box, Top, Walk
from receiver.archive.inspect.reader import (
    Data,
    Findings,
    check_dimensions,
    check_frames,
    read_fields,
    truncated,
)
from receiver.errors import NotThePictureError

_ISPE = struct.Struct(">4xII")  # width, height
_ILOC = struct.Struct(">B3xH")  # version; four lengths of fields in 4 bits each
_INFE = struct.Struct(">B3x")  # version
_STSZ = struct.Struct(">8xI")  # number of samples in a track: in an animation, its frames
_MAX_EXTENTS = 100_000
_IN_FILE, _IN_IDAT = 0, 1


class _Extent(NamedTuple):
    """A part of an item: where it begins, its length, and where the offset counts from."""

    item: int
    method: int
    offset: int
    length: int


def measure(walk: Walk, top: Top, found: Findings) -> tuple[tuple[int, int], int]:
    """Return width and height, and the end of the last byte of any item or sample.

    The size is the largest declared one: tiles, previews and masks declare smaller ones.
    """
    for box in walk.find(top.boxes, b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsz"):
        check_frames(*read_fields(_STSZ, walk.data, box.start))
    sizes = [
        read_fields(_ISPE, walk.data, box.start)
        for box in walk.find(top.boxes, b"meta", b"iprp", b"ipco", b"ispe")
    ]
    extents = [
        extent
        for box in walk.find(top.boxes, b"meta", b"iloc")
        for extent in _extents(walk.data, box)
    ]
    metadata = dict(_metadata(walk, top))
    pictures = [extent for extent in extents if extent.item not in metadata] or extents
    if not sizes or not any(extent.length for extent in pictures):
        return _sequence(walk, top, found)
    _mark_items(walk.data, metadata, extents, found)
    ends = [_end(walk, top, extent) for extent in pictures]
    if top.has(b"moov"):
        ends.append(mp4.end_of_samples(walk, top) or 0)
    return check_dimensions(*max(sizes, key=math.prod)), max(ends)


def _sequence(walk: Walk, top: Top, found: Findings) -> tuple[tuple[int, int], int]:
    """Return size and end of a sequence without ``meta``."""
    if not top.has(b"moov", b"mdat"):
        raise NotThePictureError("an AVIF file without a picture in it")
    (width, height), end = mp4.measure(walk, top, found)
    if width is None or height is None or end is None:
        raise NotThePictureError("an AVIF file without a picture in it")
    found.tolerate("an AVIF sequence without a still picture (meta)")
    return (width, height), end


def _end(walk: Walk, top: Top, extent: _Extent) -> int:
    """Return the end in the file of an extent, 0 if it refers to other items."""
    if extent.method == _IN_FILE:
        return extent.offset + extent.length
    if extent.method == _IN_IDAT:
        inside = next(walk.find(top.boxes, b"meta", b"idat"), None)
        if inside is None or inside.start + extent.offset + extent.length > inside.end:
            raise truncated("an item of the AVIF file", extent.length, 0)
    return 0


def _extents(data: Data, box: Box) -> Iterator[_Extent]:
    """Yield the extents of all items."""
    version, widths = read_fields(_ILOC, data, box.start)
    wide = 4 if version == 2 else 2  # noqa: PLR2004 - bytes of an item's number, by version
    numbers = _Numbers(data, box.start + _ILOC.size, box.end)
    offset_size, length_size, base_size, index_size = (
        widths >> 12,
        widths >> 8 & 15,
        widths >> 4 & 15,
        widths & 15 if version else 0,
    )
    for _ in range(numbers.read(wide)):
        item = numbers.read(wide)
        method = numbers.read(2) & 15 if version else _IN_FILE
        source = numbers.read(2)
        base = numbers.read(base_size)
        for _ in range(numbers.read(2)):
            numbers.read(index_size)
            offset = numbers.read(offset_size)
            # An index counts here only where data lies in this file (source 0).
            yield _Extent(
                item, method if not source else -1, base + offset, numbers.read(length_size)
            )


class _Numbers:
    """Reads big-endian numbers one after another."""

    def __init__(self, data: Data, at: int, end: int) -> None:
        self._data, self._at, self._end = data, at, end
        self._left = 6 * _MAX_EXTENTS

    def read(self, size: int) -> int:
        """Return the next number, ``size`` bytes long. Raise TruncatedError at the box's end."""
        self._left -= 1
        if not self._left:
            raise NotThePictureError("an AVIF file of too many parts")
        if self._at + size > self._end:
            raise truncated("the list of items", self._at + size, self._end)
        self._at += size
        return int.from_bytes(self._data[self._at - size : self._at], "big")


def _metadata(walk: Walk, top: Top) -> Iterator[tuple[int, str]]:
    """Yield number and kind of the items that say something about the origin."""
    for box in walk.find(top.boxes, b"meta", b"iinf"):
        version = walk.data[box.start] if box.start < box.end else 0
        for entry in walk.boxes(box.start + (8 if version else 6), box.end):
            kind, item = _described(walk.data, entry)
            if kind:
                yield item, kind


def _mark_items(
    data: Data, metadata: dict[int, str], extents: list[_Extent], found: Findings
) -> None:
    """Record the items that say something about the origin. The picture is whole without them."""
    for extent in extents:
        kind = metadata.get(extent.item, "") if extent.method in (_IN_FILE, _IN_IDAT) else ""
        start = extent.offset if extent.method == _IN_FILE else len(data)
        if kind and extent.method == _IN_FILE and start + extent.length > len(data):
            found.tolerate(f"metadata of the AVIF file ({kind}) would end after the file")
        elif kind == "xmp":
            found.mark_text(kind, "item", data, start, start + extent.length)
        elif kind:
            found.mark(kind, "item", extent.length)


def _described(data: Data, entry: Box) -> tuple[str, int]:
    """Return the kind of mark that an item is, or "", and its number."""
    (version,) = read_fields(_INFE, data, entry.start)
    wide = 4 if version == 3 else 2  # noqa: PLR2004 - bytes of an item's number, by version
    at = entry.start + _INFE.size
    item = int.from_bytes(data[at : at + wide], "big")
    at += wide + 2
    kind, rest = bytes(data[at : at + 4]), bytes(data[at + 4 : entry.end])[:200]
    if version >= 2 and kind == b"Exif":  # noqa: PLR2004 - older entries have no type
        return "exif", item
    if kind == b"mime" and b"application/rdf+xml" in rest:
        return "xmp", item
    return "", item
