"""What /readyz and /status check, each part in a background question of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from receiver import clock
from receiver.errors import LedgerError, ReceiverError
from receiver.ledger.database import require_writable
from receiver.ledger.queries.events import DestinationStatus
from receiver.services import Services
from receiver.web.background import LIMIT, Answer, BackgroundValue, ask_all

log = structlog.get_logger(__name__)

# Seconds an answer is kept. A check writes an object, or to the ledger, and needs no token.
LIFETIMES = {"ledger": 1.0, "archive": 10.0, "figures": 5.0}
# Seconds that due work and due events may wait. The alerts ReceiverWorkWaits and
# ReceiverEventsNotTold use the same.
WORK_WAITS, EVENTS_WAIT = 120.0, 1800.0
# Everybody may read these texts: they say no more than who does not answer.
_NO_ANSWER = f"no answer within {LIMIT:.0f} s"
_LEDGER_UNUSABLE = "the ledger cannot be used now; the log says why"


@dataclass(frozen=True, slots=True)
class Check:
    """The state of one part: whether it is well, what is to be said, and figures.

    ``age`` is that of the answer in seconds, None if there was none yet. ``detail`` and
    ``figures`` may contain paths, hosts and names; ``public_text`` may not.
    """

    ok: bool
    age: float | None
    detail: str = "ok"
    public_text: str = "ok"
    figures: Mapping[str, object] = field(default_factory=dict)

    def shown(self, *, details: bool) -> dict[str, object]:
        """Return what /status shows of it."""
        public: dict[str, object] = {"ok": self.ok, "age_seconds": self.age}
        return {**public, "detail": self.detail, **self.figures} if details else public


@dataclass(frozen=True, slots=True)
class Figures:
    """What is read from the ledger; ``oldest_due`` in seconds."""

    oldest_due: float
    destinations: list[DestinationStatus]


class HealthChecks:
    """The checks of one application."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._ledger = _question("ledger", self._check_ledger)
        self._archive = _question("archive", self._check_archive)
        self._figures = _question("figures", self._read_figures)

    def readiness(self) -> Check:
        """Return whether the ledger can be written."""
        return _ledger_check(self._ledger.get())

    def status(self) -> dict[str, Check]:
        """Return the state of every part, by its name."""
        ledger, archive, figures = ask_all([self._ledger, self._archive, self._figures])
        return {
            "ledger": _ledger_check(ledger),
            "archive": _check_of(archive, lambda _: (True, "ok", {})),
            "work": _check_of(figures, _work),
            "events": _check_of(figures, self._events),
        }

    def _check_ledger(self) -> None:
        try:
            require_writable(self._services.database)
        except LedgerError as error:
            # Logged here, once for each question and not for each of its readers.
            log.error("ledger not usable", error=str(error))  # noqa: TRY400 - the text says it
            raise

    def _check_archive(self) -> None:
        self._services.store.check()

    def _read_figures(self) -> Figures:
        now = clock.now()
        due = self._services.queries.oldest_due(now)
        return Figures(
            oldest_due=0.0 if due is None else max(0.0, now - due),
            destinations=self._services.events.destinations(),
        )

    def _events(self, figures: Figures) -> tuple[bool, str, dict[str, object]]:
        """Return whether each destination of EVENT_URLS accepts events."""
        named = {destination.name for destination in self._services.settings.destinations}
        now = clock.now()
        shown = [
            {
                "destination": row.destination,
                "waiting": row.waiting,
                "set_aside": row.set_aside,
                "oldest_due_seconds": _seconds(now - row.due_since if row.due_since else 0.0),
            }
            for row in figures.destinations
            if row.destination in named
        ]
        late = [str(one["destination"]) for one in shown if one["oldest_due_seconds"] > EVENTS_WAIT]  # type: ignore[operator]  # a number
        text = f"events wait for {', '.join(late)}" if late else "ok"
        return not late, text, {"destinations": shown}


def _question(name: str, ask: Callable[[], Any]) -> BackgroundValue[Any]:
    return BackgroundValue(name, ask, LIFETIMES[name])


def _ledger_check(answer: Answer[None]) -> Check:
    """Return the state of the ledger; /readyz is public, so its text has no details."""
    check = _check_of(answer, lambda _: (True, "ok", {}))
    if check.ok:
        return check
    public = _LEDGER_UNUSABLE if answer.error and not answer.late else _NO_ANSWER
    return Check(ok=False, age=check.age, detail=check.detail, public_text=public)


def _check_of(
    answer: Answer[Any], judge: Callable[[Any], tuple[bool, str, dict[str, object]]]
) -> Check:
    """Return a check from an answer; ``judge`` returns from its value: well, text, figures."""
    age = None if answer.age is None else _seconds(answer.age)
    if answer.late or answer.age is None:
        return Check(ok=False, age=age, detail=_NO_ANSWER)
    if answer.error is not None:
        known = isinstance(answer.error, ReceiverError)
        return Check(ok=False, age=age, detail=str(answer.error) if known else repr(answer.error))
    ok, detail, figures = judge(answer.value)
    return Check(ok, age, detail, figures=figures)


def _work(figures: Figures) -> tuple[bool, str, dict[str, object]]:
    """Return whether due work is claimed soon."""
    ok = figures.oldest_due <= WORK_WAITS
    text = "ok" if ok else "due work is not claimed: no worker runs, or all threads are busy"
    return ok, text, {"oldest_due_seconds": _seconds(figures.oldest_due)}


def _seconds(value: float) -> float:
    return round(max(0.0, value), 3)
