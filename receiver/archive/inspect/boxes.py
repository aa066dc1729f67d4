"""Walking the boxes of ISO base media files (ISO/IEC 14496-12): AVIF, MP4, MOV, 3GP."""

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from receiver.archive.inspect.reader import Data, Findings, quoted, read_fields, truncated
from receiver.errors import NotThePictureError

_BOX = struct.Struct(">I4s")  # length, itself included; name
_LONG = struct.Struct(">Q")  # the length, if the first one is 1
_FULL = {b"meta": 4}  # bytes of version and flags before the boxes within
_MAX_BOXES = 20_000
# Boxes at the top of a file. Bytes with another name and an impossible length are not a box.
_TOP = frozenset(
    (
        b"ftyp", b"styp", b"meta", b"moov", b"moof", b"mdat", b"mfra", b"free", b"skip", b"wide",
        b"uuid", b"sidx", b"ssix", b"emsg", b"prft", b"pdin", b"udta", b"pnot", b"idat", b"junk",
    )
)  # fmt: skip
MEDIA = b"mdat"


class Box(NamedTuple):
    """A box: its name, and the offsets where its contents begin and end."""

    name: bytes
    start: int
    end: int


class Top(NamedTuple):
    """The boxes at the top of a file.

    ``cut`` is the last one if it would end after the file, with the end that it says; ``endless``
    is the last one if it has the length 0, which means "to the end of the file".
    """

    boxes: list[Box]
    cut: Box | None
    endless: Box | None

    def has(self, *names: bytes) -> bool:
        """Return whether boxes of all these names are there."""
        return set(names) <= {box.name for box in self.boxes}


class Walk:
    """A walk over the boxes of one file; at most _MAX_BOXES boxes, however they are nested."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self._left = _MAX_BOXES

    def top(self, found: Findings) -> Top:
        """Return the boxes at the top, up to the first bytes that are not a box."""
        boxes: list[Box] = []
        at, size = 0, len(self.data)
        while at < size:
            box, is_endless = self._read(at, size)
            if box is None:
                break
            if box.end > size:
                return Top([*boxes, box._replace(end=size)], box, None)
            boxes.append(box)
            at = box.end
            if is_endless:
                found.end = size
                return Top(boxes, None, box)
        found.end = at
        return Top(boxes, None, None)

    def boxes(self, start: int, end: int) -> Iterator[Box]:
        """Yield the boxes from one offset to another.

        Raise NotThePictureError if they do not fill this part of the file exactly.
        """
        while start != end:
            length, name, head = self._head(start, end)
            after = start + length if length else end
            if after > end:
                raise truncated(f"box {quoted(name)}", after, end)
            if after < start + head:
                raise NotThePictureError(f"a damaged file: a box of {length} bytes at {start}")
            yield Box(name, start + head, after)
            start = after

    def find(self, boxes: Iterable[Box], name: bytes, *path: bytes) -> Iterator[Box]:
        """Yield the boxes with this name or, with a path of names, the boxes at its end."""
        for box in boxes:
            if box.name == name and not path:
                yield box
            elif box.name == name:
                yield from self.find(self.inside(box), *path)

    def inside(self, box: Box) -> Iterator[Box]:
        """Yield the boxes within a box."""
        yield from self.boxes(box.start + self._skipped(box), box.end)

    def _skipped(self, box: Box) -> int:
        """Return the bytes before the boxes within. QuickTime's ``meta`` has none."""
        if box.name == b"meta" and self.data[box.start + 4 : box.start + 8] == b"hdlr":
            return 0
        return _FULL.get(box.name, 0)

    def _read(self, at: int, size: int) -> tuple[Box | None, bool]:
        """Return the box at the top at this offset, or None if there is none.

        Also return whether it goes on to the end of the file, whatever that is.
        """
        if at + _BOX.size > size:
            return None, False
        (length, name) = read_fields(_BOX, self.data, at)
        if length == 1 and at + _BOX.size + _LONG.size > size:
            return (Box(name, at + _BOX.size, size + 1) if name in _TOP else None), False
        length, name, head = self._head(at, size)
        if length == 0 and name in _TOP:
            return Box(name, at + head, size), True
        if length < head or (at + length > size and name not in _TOP):
            return None, False
        return Box(name, at + head, at + length), False

    def _head(self, at: int, end: int) -> tuple[int, bytes, int]:
        """Return length and name of the box at an offset, and the length of both fields."""
        self._left -= 1
        if not self._left:
            raise NotThePictureError(f"a file of more than {_MAX_BOXES} boxes")
        if at + _BOX.size > end:
            raise truncated("a box", at + _BOX.size, end)
        length, name = read_fields(_BOX, self.data, at)
        if length != 1:
            return length, name, _BOX.size
        (length,) = read_fields(_LONG, self.data, at + _BOX.size)
        # The length 0 is allowed in the first field only.
        return length or 1, name, _BOX.size + _LONG.size
