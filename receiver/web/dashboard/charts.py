"""The shapes of the charts; a template writes them as SVG, and the style sheet colours them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Width of a drawing in its own units, and the height of columns; the page scales it.
WIDTH, HEIGHT = 1000.0, 200.0
# The share of a column's place that stays free.
_GAP = 0.25


@dataclass(frozen=True, slots=True)
class Bar:
    """The data of a bar: its name, and the name and count of each part."""

    name: str
    parts: list[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Line:
    """The data of a line: the seconds that 50 % and 95 % of the cases took; None without cases."""

    name: str
    half: float | None
    most: float | None


@dataclass(frozen=True, slots=True)
class Stack:
    """The data of a column: its name, and the name and size of each part, from the bottom."""

    name: str
    parts: Sequence[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class DrawnColumn:
    """A column: its start and width, its name, its size, and its rectangles (kind, top, height)."""

    name: str
    start: float
    width: float
    total: float
    rectangles: list[tuple[str, float, float]]


@dataclass(frozen=True, slots=True)
class Columns:
    """A chart of columns; ``top`` is the value at its upper edge."""

    top: float
    columns: list[DrawnColumn]


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment of a drawn bar: its start and length."""

    kind: str
    count: int
    start: float
    length: float


@dataclass(frozen=True, slots=True)
class DrawnBar:
    """A bar with its segments."""

    name: str
    total: int
    segments: list[Segment]


@dataclass(frozen=True, slots=True)
class DrawnLine:
    """A line from 0 to ``most``, marked at ``half``, with the seconds of both."""

    name: str
    half: float
    most: float
    half_seconds: float
    most_seconds: float


def bars(data: list[Bar]) -> list[DrawnBar]:
    """Return the bars, all equally long, so that shares can be compared."""
    drawn = []
    for bar in data:
        total, start, segments = sum(count for _, count in bar.parts), 0.0, []
        for kind, count in bar.parts:
            length = WIDTH * count / total if total else 0.0
            if count:
                segments.append(Segment(kind, count, round(start, 2), round(length, 2)))
            start += length
        drawn.append(DrawnBar(bar.name, total, segments))
    return drawn


def lines(data: list[Line]) -> list[DrawnLine]:
    """Return the lines on one scale that ends at the longest; lines without cases are left out."""
    known = [
        (line, line.half, line.most)
        for line in data
        if line.half is not None and line.most is not None
    ]
    longest = max((most for _, _, most in known), default=0.0) or 1.0
    return [
        DrawnLine(
            line.name,
            round(WIDTH * half / longest, 2),
            round(WIDTH * most / longest, 2),
            half,
            most,
        )
        for line, half, most in known
    ]


def columns(data: Sequence[Stack], *, overlaid: bool = False) -> Columns:
    """Return columns of stacked parts, or of parts in front of each other, the longest first."""
    sizes = [
        max((size for _, size in stack.parts), default=0.0)
        if overlaid
        else sum(size for _, size in stack.parts)
        for stack in data
    ]
    top = round_up(max(sizes, default=0.0))
    place = WIDTH / max(len(data), 1)
    drawn = []
    for number, (stack, size) in enumerate(zip(data, sizes, strict=True)):
        bottom, rectangles = HEIGHT, []
        for kind, part in stack.parts:
            height = HEIGHT * part / top
            if part:
                rectangles.append((kind, round(bottom - height, 2), round(height, 2)))
            bottom -= 0.0 if overlaid else height
        start = place * (number + _GAP / 2)
        drawn.append(
            DrawnColumn(stack.name, round(start, 2), round(place * (1 - _GAP), 2), size, rectangles)
        )
    return Columns(top, drawn)


def round_up(value: float) -> float:
    """Return the next of 1, 2, 4, 5, 8 and 10 times a power of ten; 1 for nothing."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 5, 8, 10, 20) if step * power >= value)
