"""Charts as shapes to be drawn: a template writes them as SVG. Colours are the style sheet's."""

from dataclasses import dataclass

# Units of a drawing's width; it is stretched to the page.
WIDTH = 1000.0


@dataclass(frozen=True, slots=True)
class Bar:
    """What one bar is made of: a name and parts, each with what it counts."""

    name: str
    parts: list[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Line:
    """What one line shows: half of the cases and nearly all of them took so many seconds; None where there were none."""

    name: str
    half: float | None
    most: float | None


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a bar: where it begins and how long it is."""

    kind: str
    count: int
    begin: float
    length: float


@dataclass(frozen=True, slots=True)
class DrawnBar:
    """A bar with its pieces."""

    name: str
    total: int
    pieces: list[Piece]


@dataclass(frozen=True, slots=True)
class DrawnLine:
    """A line from nothing to ``most``, marked at ``half``; with the seconds they stand for."""

    name: str
    half: float
    most: float
    half_seconds: float
    most_seconds: float


def bars(given: list[Bar]) -> list[DrawnBar]:
    """Draw each bar as long as the others, so that shares compare."""
    drawn = []
    for bar in given:
        total, begin, pieces = sum(count for _, count in bar.parts), 0.0, []
        for kind, count in bar.parts:
            length = WIDTH * count / total if total else 0.0
            if count:
                pieces.append(Piece(kind, count, round(begin, 2), round(length, 2)))
            begin += length
        drawn.append(DrawnBar(bar.name, total, pieces))
    return drawn


def lines(given: list[Line]) -> list[DrawnLine]:
    """Draw the lines on one scale, which ends at the longest; what never happened is left out."""
    known = [
        (line, line.half, line.most)
        for line in given
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
