"""Measured results: percentiles, medians over rounds, and the table that shows them."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from rich.table import Table

MS = 1000.0  # milliseconds in a second
US = 1_000_000.0  # microseconds


@dataclass(frozen=True, slots=True)
class Round:
    """One round of a load: requests per second, and the 50th and 99th percentile of their seconds.

    ``cpu`` and ``database_cpu`` are seconds of processor time per request.
    """

    rate: float
    p50: float
    p99: float
    cpu: float
    database_cpu: float


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table: a value of the service and of its yardstick for each round."""

    name: str
    unit: str
    ours: Sequence[float]
    yardstick: Sequence[float]

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios of our value to the yardstick's."""
        return median(mine / its for mine, its in zip(self.ours, self.yardstick, strict=True))

    def cells(self) -> list[str]:
        """Return the medians, the span of the service's values, and the ratio."""
        span = f"{_short(min(self.ours))} – {_short(max(self.ours))}" if len(self.ours) > 1 else ""
        return [
            self.name,
            self.unit,
            _short(median(self.ours)),
            span,
            _short(median(self.yardstick)),
            f"{self.ratio:.2f}",
        ]


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is measured: rounds of ``each``, none begun after ``seconds``, at least two."""

    rounds: int
    each: int
    seconds: float

    def __iter__(self) -> Iterator[int]:
        """Count the rounds from 0."""
        deadline = time.monotonic() + self.seconds
        for number in range(self.rounds):
            if number > 1 and time.monotonic() > deadline:
                return
            yield number


def percentile(values: Iterable[float], share: float) -> float:
    """Return the smallest value that at least this share (0 to 1) of the values does not exceed."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)]


@dataclass(frozen=True, slots=True)
class Result:
    """What one measure found; ``yardstick`` says what ours is compared with."""

    title: str
    yardstick: str
    lines: Sequence[Line]

    def table(self) -> Table:
        """Lay the lines out."""
        shown = Table(title=self.title, title_justify="left")
        shown.add_column("measure")
        shown.add_column("unit")
        for name in ("receiver", "from – to", self.yardstick, "ratio"):
            shown.add_column(name, justify="right")
        for line in self.lines:
            shown.add_row(*line.cells())
        return shown


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
