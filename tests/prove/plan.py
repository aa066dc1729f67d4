"""Which rounds are played, in which order, while there is time; and their outcomes."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from tests.prove.fault import Fault
from tests.prove.faults import FAULTS
from tests.prove.round import Outcome
from tests.prove.setups import SETUPS, Setup

# After this many crashes come the faults that are orders only, so that a short run has both.
_FIRST = 8


@dataclass(frozen=True, slots=True)
class Match:
    """Faults that share a round, most often one, on a setup."""

    faults: tuple[Fault, ...]
    setup: Setup

    @property
    def names(self) -> tuple[str, ...]:
        """The faults' names."""
        return tuple(fault.name for fault in self.faults)

    @property
    def seconds(self) -> float:
        """How long a round takes, on a free machine."""
        return max(fault.seconds for fault in self.faults)


def matches(faults: Sequence[str], setups: Sequence[str]) -> list[Match]:
    """Return the chosen faults (by default all) in order.

    Each comes on its first setup, then on the others.
    """
    groups = _groups([FAULTS[name] for name in faults or FAULTS])
    places = [setup for name, setup in SETUPS.items() if not setups or name in setups]
    fitting = [
        [Match(group, setup) for setup in places if group[0].fits(setup)] for group in groups
    ]
    most = max(map(len, fitting), default=0)
    return [found[turn] for turn in range(most) for found in fitting if turn < len(found)]


def _groups(faults: Sequence[Fault]) -> list[tuple[Fault, ...]]:
    """Let faults that are orders only share a round, except those with their own settings."""
    together = tuple(fault for fault in faults if fault.menu and not fault.settings)
    alone: list[tuple[Fault, ...]] = [(fault,) for fault in faults if fault not in together]
    return [*alone[:_FIRST], together, *alone[_FIRST:]] if together else alone


@dataclass(slots=True)
class Plan:
    """Gives rounds until ``seconds`` are over, or ``rounds`` of each match.

    Every seed is derived from the first one.
    """

    matches: Sequence[Match]
    seconds: float
    seed: int
    rounds: int | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    _started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.seconds - (time.monotonic() - self._started)

    def __iter__(self) -> Iterator[tuple[Match, int]]:
        """Yield matches with their seeds, without those that take too long or are impossible."""
        for turn in count():
            given = 0
            for number, match in enumerate(self.matches):
                if self._fits(match) and (self.rounds is None or turn < self.rounds):
                    given += 1
                    yield match, self.seed + turn * len(self.matches) + number
            if not given:
                return

    def _fits(self, match: Match) -> bool:
        mine = [
            it
            for it in self.outcomes
            if (it.assignment.faults, it.assignment.setup) == (match.names, match.setup.name)
        ]
        if any(outcome.skipped for outcome in mine):
            return False
        longest = max((outcome.seconds for outcome in mine), default=match.seconds)
        return self.rounds is not None or longest < self.left
