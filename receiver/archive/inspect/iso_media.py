"""AVIF (AV1 Image File Format 1.1) and MP4 (ISO/IEC 14496-12, 14496-14): nested boxes.

Both are ISO base media files; their brands tell which one it is. The boxes are walked, not decoded.
They must cover the file up to its last byte, so a cut file is noticed. The one exception is a last
box of length 0, which means "to the end of the file".
"""

import math
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from receiver.archive.inspect.reader import (
    Data,
    check_dimensions,
    check_frames,
    read_fields,
    truncated,
)
from receiver.errors import NotThePictureError

_BOX = struct.Struct(">I4s")  # length, itself included; name
_LONG = struct.Struct(">Q")  # the length, if the first one is 1
_ISPE = struct.Struct(">4xII")  # width, height
_VERSION = struct.Struct(">B")
_TKHD_0 = struct.Struct(">76xH2xH2x")  # width, height: the whole part of 16.16 fixed-point numbers
_TKHD_1 = struct.Struct(">88xH2xH2x")  # the same, after times of 64 bits
_STSZ = struct.Struct(">8xI")  # number of samples in a track: in an animation, its frames
_FULL = {b"meta": 4}  # bytes of version and flags before the boxes within
_MAX_BOXES = 20_000

_AVIF = frozenset({b"avif", b"avis"})
_MP4 = frozenset(
    {
        b"isom",
        b"mp41",
        b"mp42",
        b"mp71",
        b"avc1",
        b"av01",
        b"hvc1",
        b"dash",
        b"cmfc",
        b"M4V ",
        b"MSNV",
    }
) | frozenset(b"iso%d" % number for number in range(2, 10))


class Box(NamedTuple):
    """A box: its name, and the offsets where its contents begin and end."""

    name: bytes
    start: int
    end: int


def measure(data: Data) -> tuple[str, str, int | None, int | None]:
    """Walk the file; return media type, extension, width and height."""
    walk = _Walk(data)
    top = list(walk.boxes(0, len(data)))
    brands = _brands(data, top[0])
    if brands & _AVIF:
        return "image/avif", "avif", *_avif(walk, top)
    if brands & _MP4:
        return "video/mp4", "mp4", *_mp4(walk, top)
    raise NotThePictureError(
        f"a file of brand {data[8:12]!r}, neither an AVIF picture nor an MP4 video"
    )


class _Walk:
    """A walk over the boxes of one file; at most _MAX_BOXES boxes, however they are nested."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self._left = _MAX_BOXES

    def boxes(self, start: int, end: int) -> Iterator[Box]:
        """Yield the boxes from one offset to another.

        Raise NotThePictureError if they do not fill this part of the file exactly.
        """
        while start != end:
            box = self._box(start, end)
            yield box
            start = box.end

    def find(self, boxes: Iterable[Box], name: bytes, *path: bytes) -> Iterator[Box]:
        """Yield the boxes with this name or, with a path of names, the boxes at its end."""
        for box in boxes:
            if box.name == name and not path:
                yield box
            elif box.name == name:
                yield from self.find(self.boxes(box.start + _FULL.get(name, 0), box.end), *path)

    def _box(self, at: int, end: int) -> Box:
        self._left -= 1
        if not self._left:
            raise NotThePictureError(f"a file of more than {_MAX_BOXES} boxes")
        length, name = read_fields(_BOX, self.data, at)
        head = _BOX.size
        if length == 1:
            (length,) = read_fields(_LONG, self.data, at + head)
            head += _LONG.size
        after = at + length if length else end
        if after > end:
            raise truncated(f"box {name!r}", after, end)
        if after < at + head:
            raise NotThePictureError(f"a damaged file: a box of {length} bytes at {at}")
        return Box(name, at + head, after)


def _brands(data: Data, ftyp: Box) -> set[bytes]:
    """Return the major and the compatible brands.

    The four bytes of version between them are returned as well; they match no brand.
    """
    end = min(ftyp.end, ftyp.start + 1024)
    return {data[at : at + 4] for at in range(ftyp.start, end, 4)}


def _avif(walk: _Walk, top: list[Box]) -> tuple[int, int]:
    """Return the largest declared size: tiles, previews and masks declare smaller ones."""
    sizes = [
        read_fields(_ISPE, walk.data, box.start)
        for box in walk.find(top, b"meta", b"iprp", b"ipco", b"ispe")
    ]
    if not sizes or not any((*walk.find(top, b"mdat"), *walk.find(top, b"meta", b"idat"))):
        raise NotThePictureError("an AVIF file without a picture in it")
    for box in walk.find(top, b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsz"):
        check_frames(*read_fields(_STSZ, walk.data, box.start))
    return check_dimensions(*max(sizes, key=math.prod))


def _mp4(walk: _Walk, top: list[Box]) -> tuple[int | None, int | None]:
    """Return the size of the first track that has one, else None."""
    if not {b"moov", b"mdat"} <= {box.name for box in top}:
        raise NotThePictureError("an MP4 file without a video in it")
    for box in walk.find(top, b"moov", b"trak", b"tkhd"):
        (version,) = read_fields(_VERSION, walk.data, box.start)
        width, height = read_fields(_TKHD_1 if version else _TKHD_0, walk.data, box.start)
        if width and height:
            return check_dimensions(width, height)
    return None, None
