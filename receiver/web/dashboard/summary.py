"""Figures that many pages show and that cost something: asked for by one at a time, and kept for as long as that is worth."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from flask import current_app

from receiver.ledger.queries.audit import Audit
from receiver.ledger.queries.model_stats import Compare, Comparison
from receiver.model import FINAL_STATES, JobState, risk_begins
from receiver.services import Services
from receiver.web.state import services

T = TypeVar("T")

_NAME = "receiver.figures"
# A figure is kept so many times as long as it took to find: however large the ledger, looking costs at most a twentieth of one thread.
_WORTH = 20
# Jobs of which an audit is a matter of milliseconds.
SMALL = 20_000
# Rows that are counted of what should be none.
MOST = 99


class Kept(Generic[T]):
    """One figure and its age; ``shortest`` is how long it holds at least, in seconds."""

    def __init__(self, ask: Callable[[], T], shortest: float) -> None:
        self._ask, self._shortest = ask, shortest
        self._lock = threading.Lock()
        self._found: T | None = None
        self._until = float("-inf")

    def get(self) -> T:
        """Return the figure, a new one if the old is too old; who comes while it is being found gets the old one."""
        if self._found is None or time.monotonic() >= self._until:
            fresh = self._lock.acquire(blocking=self._found is None)
            if fresh:
                try:
                    self._renew()
                finally:
                    self._lock.release()
        found = self._found
        assert found is not None  # noqa: S101 - whoever has waited for the lock finds one
        return found

    def known(self) -> T | None:
        """Return the figure that was found last, however old; None where none was."""
        return self._found

    def _renew(self) -> None:
        if time.monotonic() >= self._until:
            began = time.monotonic()
            self._found = self._ask()
            self._until = time.monotonic() + max(
                self._shortest, _WORTH * (time.monotonic() - began)
            )


@dataclass(frozen=True, slots=True)
class Standing:
    """How many jobs are in each state, and what the last audit said, at ``checked_at`` (seconds since the epoch)."""

    states: dict[str, int]
    audit: Audit | None  # not known yet
    checked_at: float | None
    danger: int
    set_aside: int

    @property
    def submitted(self) -> int:
        """All jobs."""
        return sum(self.states.values())

    @property
    def in_flight(self) -> int:
        """Jobs that are not over."""
        return sum(number for state, number in self.states.items() if state not in FINAL_STATES)

    def bar(self) -> list[tuple[str, float, float]]:
        """Return each state with where its part of a bar of 1000 begins, and how long it is; what is there at all can be seen."""
        order = [*FINAL_STATES, *(state for state in JobState if state not in FINAL_STATES)]
        weights = [
            (
                state.value,
                max(self.states[state] / max(self.submitted, 1), 0.008 * (self.states[state] > 0)),
            )
            for state in order
        ]
        whole, parts, begin = sum(weight for _, weight in weights) or 1.0, [], 0.0
        for name, weight in weights:
            parts.append((name, begin, 1000 * weight / whole))
            begin += 1000 * weight / whole
        return parts


class Figures:
    """The figures of one application."""

    def __init__(self, services: Services) -> None:
        self._states = Kept(services.totals.counts, 1.0)
        self._audit = Kept(lambda: (services.totals.audit(), services.now()), 10.0)
        self._danger = Kept(
            lambda: len(services.pictures.endangered(danger_until(services), MOST)), 2.0
        )
        self._set_aside = Kept(
            lambda: min(
                MOST, services.set_aside.count(MOST) + len(services.events.set_aside(limit=MOST))
            ),
            5.0,
        )
        self._services = services
        self._comparisons: dict[int, Kept[Comparison]] = {}

    def standing(self, *, checked: bool = False) -> Standing:
        """Return how it all stands; ``checked`` waits for the audit, which takes seconds where there are very many jobs."""
        states = self._states.get()
        small = sum(states.values()) <= SMALL
        audit, checked_at = (self._audit.get() if checked or small else self._audit.known()) or (
            None,
            None,
        )
        return Standing(states, audit, checked_at, self._danger.get(), self._set_aside.get())

    def comparison(self, seconds: int) -> Comparison:
        """Compare the models of so many seconds back; of each length asked for one is kept."""
        services, compare = self._services, Compare(self._services.database)
        return self._comparisons.setdefault(
            seconds, Kept(lambda: compare.since(services.now() - seconds), 2.0)
        ).get()


def figures() -> Figures:
    """Return the figures of the current application."""
    found = current_app.extensions.setdefault(_NAME, None) or Figures(services())
    current_app.extensions[_NAME] = found
    assert isinstance(found, Figures)  # noqa: S101 - only this function writes it
    return found


def danger_until(services: Services) -> float:
    """Return the moment before which a URL's death makes a picture one in danger: those in the last quarter of their lives."""
    now, lifetime = services.now(), services.timing.url_lifetime
    return 2 * now - risk_begins(now, lifetime)
