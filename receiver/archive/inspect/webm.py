"""Matroska (RFC 9559; EBML, RFC 8794) and WebM, a profile of it: nested elements.

The elements are walked, not decoded. They must reach exactly to the end of the segment, so a cut
file is noticed. A segment or cluster of unknown size, as live encoders write them, ends with the
file or with the next element of its parent; such a file may be cut between two elements, so it is
open-ended.
"""

from collections.abc import Iterator
from typing import NamedTuple

from receiver.archive.inspect.reader import (
    MAX_PARTS,
    Data,
    Findings,
    check_dimensions,
    truncated,
)
from receiver.errors import NotThePictureError

_HEADER, _DOC_TYPE = 0x1A45DFA3, 0x4282
_SEGMENT, _CLUSTER, _TRACKS, _TAGS = 0x18538067, 0x1F43B675, 0x1654AE6B, 0x1254C367
_TRACK, _VIDEO, _WIDTH, _HEIGHT = 0xAE, 0xE0, 0xB0, 0xBA
# The children of a segment, and the two that may stand anywhere.
_TOP = frozenset(
    {0x114D9B74, 0x1549A966, _TRACKS, _CLUSTER, 0x1C53BB6B, 0x1941A469, 0x1043A770, _TAGS}
)
_ANYWHERE = frozenset({0xEC, 0xBF})
_MAX_ID_BYTES, _MAX_SIZE_BYTES = 4, 8
_MAX_NUMBER_BYTES = 8


class Element(NamedTuple):
    """An element: its id, and the offsets where its contents begin and end."""

    id: int
    start: int
    end: int


_KINDS = {b"webm": ("video/webm", "webm"), b"matroska": ("video/x-matroska", "mkv")}


def measure(data: Data, found: Findings) -> tuple[str, str, int | None, int | None]:
    """Walk the file; return media type, extension, width and height.

    The size is that of the first track that has one, else None.
    """
    walk = _Walk(data)
    header = walk.element(0, len(data))
    names = [element for element in walk.children(header) if element.id == _DOC_TYPE]
    name = bytes(data[names[0].start : names[0].end]).rstrip(b"\0") if names else b"matroska"
    if name not in _KINDS:
        raise NotThePictureError("an EBML file that is not a WebM video")
    segment = walk.element(header.end, len(data))
    if segment.id != _SEGMENT:
        raise NotThePictureError("a WebM file without a video in it")
    top = list(walk.children(segment))
    if not {_TRACKS, _CLUSTER} <= {element.id for element in top}:
        raise NotThePictureError("a WebM file without a video in it")
    for tags in walk.find(top, _TAGS):
        found.mark_text("text", "Tags", data, tags.start, tags.end)
    found.end = segment.end
    found.open_ended = walk.is_open_ended
    return *_KINDS[name], *_dimensions(walk, top)


def _dimensions(walk: "_Walk", top: list[Element]) -> tuple[int | None, int | None]:
    for video in walk.find(top, _TRACKS, _TRACK, _VIDEO):
        sides = {element.id: walk.number(element) for element in walk.children(video)}
        if _WIDTH in sides and _HEIGHT in sides:
            return check_dimensions(sides[_WIDTH], sides[_HEIGHT])
    return None, None


class _Walk:
    """A walk over the elements of one file; at most MAX_PARTS, however they are nested."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.is_open_ended = False
        self._left = MAX_PARTS

    def children(self, parent: Element) -> Iterator[Element]:
        """Yield the elements in another one, which they must fill."""
        at = parent.start
        while at < parent.end:
            element = self.element(at, parent.end)
            yield element
            at = element.end

    def find(self, elements: list[Element], wanted: int, *path: int) -> Iterator[Element]:
        """Yield the elements with this id or, with a path of ids, those at its end."""
        for element in elements:
            if element.id == wanted and not path:
                yield element
            elif element.id == wanted:
                yield from self.find(list(self.children(element)), *path)

    def number(self, element: Element) -> int:
        """Return the unsigned number that an element contains."""
        size = min(element.end - element.start, _MAX_NUMBER_BYTES)
        return int.from_bytes(self.data[element.start : element.start + size], "big")

    def element(self, at: int, end: int) -> Element:
        """Return the element at an offset.

        Raise NotThePictureError if it does not end by ``end``.
        """
        self._left -= 1
        if not self._left:
            raise NotThePictureError(f"a file of more than {MAX_PARTS} elements")
        kind, start = self._coded(at, end, _MAX_ID_BYTES)
        size, start = self._coded(start, end, _MAX_SIZE_BYTES)
        bits = 7 * (start - at - self._length(at))
        size &= (1 << bits) - 1
        if size == (1 << bits) - 1:
            self.is_open_ended = True
            return Element(kind, start, self._end_of_unknown(kind, start, end))
        if start + size > end:
            raise truncated(f"element {kind:X}", start + size, end)
        return Element(kind, start, start + size)

    def _length(self, at: int) -> int:
        """Return the bytes of a coded number: its first byte has one leading zero bit less."""
        return 9 - self.data[at].bit_length()

    def _coded(self, at: int, end: int, most: int) -> tuple[int, int]:
        """Return a coded number with its marker bit, and the offset after it."""
        if at >= end:
            raise truncated("an element", at + 1, end)
        length = self._length(at)
        if length > most:
            raise NotThePictureError(f"a damaged file: no element at {at}")
        if at + length > end:
            raise truncated("an element", at + length, end)
        return int.from_bytes(self.data[at : at + length], "big"), at + length

    def _end_of_unknown(self, kind: int, start: int, end: int) -> int:
        """Return where an element of unknown size ends: a segment with the file."""
        if kind == _SEGMENT:
            return end
        if kind != _CLUSTER:
            raise NotThePictureError("a damaged file: an element of unknown size")
        at = start
        while at < end:
            following, _ = self._coded(at, end, _MAX_ID_BYTES)
            if following in _TOP - _ANYWHERE:
                break
            at = self.element(at, end).end
        return at
