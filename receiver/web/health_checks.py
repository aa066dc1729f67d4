"""What /readyz and /status check, each part in a background question of its own."""

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from receiver import clock
from receiver.errors import LedgerError, ReceiverError
from receiver.ledger.database import require_writable
from receiver.ledger.queries.events import DestinationStatus
from receiver.ledger.queries.signers import REFUSAL_REMEDY, Signed, refusal, refused
from receiver.ledger.user_ids import Mismatch
from receiver.ledger.workers import ALIVE_FOR, NO_WORKER_REMEDY, WorkerSeen
from receiver.model import timestamp
from receiver.services import Services
from receiver.telemetry.disk_space import DiskSpace
from receiver.web.background import LIMIT, BackgroundValue, LastAnswer, ask_all

log = structlog.get_logger(__name__)

# Seconds an answer is kept. A check writes an object, or to the ledger, and needs no token.
LIFETIMES = {"ledger": 1.0, "archive": 10.0, "figures": 5.0, "disk": 5.0}
# Seconds that due work and due events may wait. The alerts ReceiverWorkWaits and
# ReceiverEventsNotTold use the same.
WORK_WAITS, EVENTS_WAIT = 120.0, 1800.0
# Seconds after which a file that waits for a download thread is starving.
STARVES = 30.0
# These texts are public: they only say which part does not answer.
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

    @property
    def is_fault(self) -> bool:
        """Return whether the part is known not to be well."""
        return not self.ok and self.age is not None

    def shown(self, *, details: bool) -> dict[str, object]:
        """Return what /status shows of it."""
        public: dict[str, object] = {"ok": self.ok, "age_seconds": self.age}
        return {**public, "detail": self.detail, **self.figures} if details else public


@dataclass(frozen=True, slots=True)
class Figures:
    """What is read from the ledger; ``oldest_due`` in seconds, ``starving`` counts files."""

    oldest_due: float
    starving: int
    destinations: list[DestinationStatus]
    workers: list[WorkerSeen]
    refused: list[Signed]
    mismatches: list[Mismatch]


class HealthChecks:
    """The checks of one application."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._ledger = _question("ledger", self._check_ledger)
        self._archive = _question("archive", self._check_archive)
        self._figures = _question("figures", self._read_figures)
        self._disk = _question("disk", services.disk_space)
        self._questions = (self._ledger, self._archive, self._figures, self._disk)

    def readiness(self) -> Check:
        """Return whether the ledger can be written."""
        return _ledger_check(self._ledger.get())

    def status(self) -> dict[str, Check]:
        """Return the state of every part, by its name."""
        return self._checks(ask_all(self._questions))

    def known_faults(self) -> dict[str, Check]:
        """Return the parts that are known not to be well, without waiting."""
        checks = self._checks([question.peek() for question in self._questions])
        return {name: check for name, check in checks.items() if check.is_fault}

    def read_faults(self) -> dict[str, Check]:
        """Return the parts that are not well, of those that can be checked without a write."""
        figures, disk = self._figures.peek(), self._disk.peek()
        checks = {**self._of_figures(figures), "disk": _disk_check(disk, figures)}
        return {name: check for name, check in checks.items() if check.is_fault}

    def _checks(self, answers: list[LastAnswer[Any]]) -> dict[str, Check]:
        ledger, archive, figures, disk = answers
        return {
            "ledger": _ledger_check(ledger),
            "archive": _check_of(archive, lambda _: (True, "ok", {})),
            **self._of_figures(figures),
            "disk": _disk_check(disk, figures),
        }

    def _of_figures(self, answer: LastAnswer[Figures]) -> dict[str, Check]:
        deciders = {
            "workers": _workers,
            "work": _work,
            "secrets": _secrets,
            "accounts": _accounts,
            "events": self._events,
        }
        return {name: _check_of(answer, decide) for name, decide in deciders.items()}

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
            starving=self._services.queries.starving(now - STARVES),
            destinations=self._services.events.destinations(),
            workers=self._services.workers.seen(),
            refused=refused(
                self._services.signers.unfinished(), self._services.tickets.fingerprints
            ),
            mismatches=self._services.proofs.mismatches(),
        )

    def _events(self, figures: Figures) -> tuple[bool, str, dict[str, object]]:
        """Return whether each destination accepts events."""
        served, now = self._services.settings.served, clock.now()
        shown = [
            {
                "destination": row.destination,
                "waiting": row.waiting,
                "failing": row.failing,
                "set_aside": row.set_aside,
                "oldest_due_seconds": _seconds(now - row.due_since if row.due_since else 0.0),
                "oldest_seconds": _seconds(now - row.oldest_at if row.oldest_at else 0.0),
                "attempts": row.attempts,
                "last_error": row.last_error,
                "success_rate": row.recent.success_rate,
            }
            for row in figures.destinations
            if row.destination in served
        ]
        late = [str(one["destination"]) for one in shown if one["oldest_due_seconds"] > EVENTS_WAIT]  # type: ignore[operator]  # a number
        text = f"events wait for {', '.join(late)}" if late else "ok"
        return not late, text, {"destinations": shown}


def _question(name: str, ask: Callable[[], Any]) -> BackgroundValue[Any]:
    return BackgroundValue(name, ask, LIFETIMES[name])


def _ledger_check(answer: LastAnswer[None]) -> Check:
    """Return the state of the ledger; /readyz is public, so its text has no details."""
    check = _check_of(answer, lambda _: (True, "ok", {}))
    if check.ok:
        return check
    public = _LEDGER_UNUSABLE if answer.error and not answer.late else _NO_ANSWER
    return Check(ok=False, age=check.age, detail=check.detail, public_text=public)


def _check_of(
    answer: LastAnswer[Any], decide: Callable[[Any], tuple[bool, str, dict[str, object]]]
) -> Check:
    """Return a check from an answer; ``decide`` returns from its value: well, text, figures."""
    age = None if answer.age is None else _seconds(answer.age)
    if answer.late or answer.age is None:
        return Check(ok=False, age=age, detail=_NO_ANSWER)
    if answer.error is not None:
        known = isinstance(answer.error, ReceiverError)
        return Check(ok=False, age=age, detail=str(answer.error) if known else repr(answer.error))
    ok, detail, figures = decide(answer.value)
    return Check(ok, age, detail, figures=figures)


def _work(figures: Figures) -> tuple[bool, str, dict[str, object]]:
    """Return whether due work is claimed soon."""
    ok = figures.oldest_due <= WORK_WAITS
    text = "ok" if ok else "due work is not claimed: no worker runs, or all threads are busy"
    if figures.starving:
        text += f"; {figures.starving} files have waited for a thread for more than {STARVES:.0f} s"
        text += _busiest(figures.workers)
    text = text.removeprefix("ok; ")
    oldest = _seconds(figures.oldest_due)
    return ok, text, {"oldest_due_seconds": oldest, "starving": figures.starving}


def _busiest(workers: list[WorkerSeen]) -> str:
    """Return in words which job or host holds most threads of each worker."""
    found = [worker.report.get("downloads") for worker in workers if worker.is_alive]
    texts = [
        f"; {one['most_held_by']} holds {one['most_held']} of {one['threads']} threads"
        for one in found
        if isinstance(one, dict) and one.get("most_held")
    ]
    return "".join(texts)


def _workers(figures: Figures) -> tuple[bool, str, dict[str, object]]:
    """Return whether any worker sent a heartbeat lately."""
    shown = [
        {
            "host": worker.host,
            "pid": worker.pid,
            "version": worker.version,
            "uptime_seconds": _seconds(worker.uptime),
            "age_seconds": _seconds(worker.age),
            "listening": worker.report.get("listening"),
            "downloads": worker.report.get("downloads"),
        }
        for worker in figures.workers
    ]
    ok = any(worker.is_alive for worker in figures.workers)
    text = "ok" if ok else f"no worker sent a heartbeat for {ALIVE_FOR:.0f} s: {NO_WORKER_REMEDY}"
    return ok, text, {"workers": shown}


def _secrets(figures: Figures) -> tuple[bool, str, dict[str, object]]:
    """Return whether the callbacks of all unfinished jobs are accepted."""
    if not figures.refused:
        return True, "ok", {"refused_jobs": 0}
    count = sum(signed.waiting for signed in figures.refused)
    return False, f"{refusal(figures.refused)}; {REFUSAL_REMEDY}", {"refused_jobs": count}


def _accounts(figures: Figures) -> tuple[bool, str, dict[str, object]]:
    """Return whether the genuine callbacks about our tasks name the accounts that we expect."""
    shown = [
        {"provider": one.provider, "user_id": one.user_id, "at": timestamp(one.at)}
        for one in figures.mismatches
    ]
    text = "; ".join(f"{one}; {one.remedy}" for one in figures.mismatches) or "ok"
    return not shown, text, {"mismatches": shown}


def _disk_check(answer: LastAnswer[list[DiskSpace]], figures: LastAnswer[Figures]) -> Check:
    return _check_of(answer, lambda own: _disk(own, figures.value))


def _disk(own: list[DiskSpace], figures: Figures | None) -> tuple[bool, str, dict[str, object]]:
    """Return whether there is enough disk space here, and where workers are on other machines."""
    disks = [(socket.gethostname(), disk) for disk in own]
    for worker in figures.workers if figures else ():
        if worker.is_alive and worker.host not in {host for host, _ in disks}:
            disks += [(worker.host, disk) for disk in DiskSpace.read(worker.report.get("disks"))]
    low = [f"{host} {disk}" for host, disk in disks if disk.is_low]
    text = f"little disk space: {', '.join(low)}" if low else "ok"
    return not low, text, {"disks": [{"host": host, **disk.figures()} for host, disk in disks]}


def _seconds(value: float) -> float:
    return round(max(0.0, value), 3)
