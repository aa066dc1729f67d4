"""Reading fields within a file, what a walk finds, and the limits for hostile files."""

import mmap
import struct
from dataclasses import dataclass, field
from typing import Any

from receiver.errors import NotThePictureError, TruncatedError
from receiver.model import Mark

Data = bytes | mmap.mmap

MAX_SIDE = 65_535  # pixels
MAX_AREA = 1_000_000_000  # pixels
# Frames of one animation: 17 minutes at ten frames per second. Longer films come as MP4.
MAX_FRAMES = 10_000
# Chunks, segments or blocks: 1.6 GB in libpng's 8 KiB chunks, walked in a fraction of a second.
MAX_PARTS = 200_000
# Defects and marks that are recorded of one file.
_MAX_DEFECTS, _MAX_MARKS = 5, 20
# Characters of a mark's name.
_MAX_NAME = 40
# Bytes that are searched for labels: of one text, and of all, which may overlap.
_MAX_LABELLED, _MAX_SEARCHED = 1 << 20, 8 << 20


@dataclass(slots=True)
class Findings:
    """What a walk finds besides the size.

    ``defects`` are mistakes that viewers tolerate. ``unfinished`` says what is missing at the end
    of the file although the whole picture is there. ``open_ended`` is True if the format does not
    say where this file ends. ``end`` is the offset where the file ends by its own structure.
    """

    defects: list[str] = field(default_factory=list)
    marks: dict[tuple[str, str], int] = field(default_factory=dict)
    unfinished: str = ""
    open_ended: bool = False
    end: int | None = None
    _searched: int = 0  # bytes

    def tolerate(self, defect: str) -> None:
        """Record a defect."""
        if defect not in self.defects and len(self.defects) < _MAX_DEFECTS:
            self.defects.append(defect)

    def mark(self, kind: str, name: bytes | str, size: int) -> None:
        """Record a mark; the parts of a mark that comes in several add up."""
        text = name if isinstance(name, str) else name.decode("latin-1")
        key = kind, "".join(char if char.isprintable() else "." for char in text[:_MAX_NAME])
        if key in self.marks or len(self.marks) < _MAX_MARKS:
            self.marks[key] = self.marks.get(key, 0) + size

    def mark_text(self, kind: str, name: bytes | str, data: Data, start: int, end: int) -> None:
        """Record a mark that is text, and the labels of generated pictures in it."""
        self.mark(kind, name, end - start)
        start = min(start, len(data))  # it may lie, and be too large for a search
        stop = min(end, start + _MAX_LABELLED, start + _MAX_SEARCHED - self._searched)
        self._searched += max(0, stop - start)
        for label, words in _LABELS.items():
            if data.find(words, start, stop) >= 0:
                self.mark(label, name, end - start)

    def listed(self) -> tuple[Mark, ...]:
        """Return the marks in the order of the file."""
        return tuple(Mark(*key, size) for key, size in self.marks.items())


# Words that label generated pictures: GB 45438-2025 (China), and the values of IPTC's "digital
# source type" that name a trained model ("trainedAlgorithmicMedia", "compositeWithTrained…").
_LABELS = {"aigc": b"AIGC", "ai": b"rainedAlgorithmicMedia"}


def read_fields(layout: struct.Struct, data: Data, at: int) -> tuple[Any, ...]:
    """Return the fields of a structure at an offset. Raise TruncatedError at the file's end."""
    if at + layout.size > len(data):
        raise truncated("the file", at + layout.size, len(data))
    return layout.unpack_from(data, at)


def quoted(name: bytes) -> str:
    """Return a name from a file in quotes, for a message: ASCII only, the rest escaped."""
    return ascii(name.decode("latin-1"))


def truncated(what: str, needed: int, there: int) -> TruncatedError:
    """Return the error for a part that ends at byte ``needed`` of a file with ``there`` bytes."""
    return TruncatedError(
        f"cut short: {what} would go on to byte {needed}, the file ends at {there}"
    )


def check_frames(count: int) -> None:
    """Raise NotThePictureError for too many frames: a decoder pays for each of them."""
    if count > MAX_FRAMES:
        raise NotThePictureError(f"not a picture: more than {MAX_FRAMES} frames")


def check_dimensions(width: int, height: int) -> tuple[int, int]:
    """Return width and height. Raise NotThePictureError if no picture can have this size."""
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_AREA):
        raise NotThePictureError(f"not a picture: {width} x {height} pixels")
    return width, height
