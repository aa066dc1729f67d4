"""The shapes of the charts; a template writes them as SVG, and the style sheet colours them."""

from dataclasses import dataclass

# Width of a drawing in its own units; the page scales it.
WIDTH = 1000.0


@dataclass(frozen=True, slots=True)
class Bar:
    """The data of a bar: its name, and the name and count of each part."""

    name: str
    parts: list[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Line:
    """The data of a line: half of the cases and 95 % took so many seconds; None without cases."""

    name: str
    half: float | None
    most: float | None


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
