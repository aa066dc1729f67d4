"""The jobs of a caller's batch in numbers, and the batches of the newest jobs."""

from collections import Counter
from dataclasses import dataclass

from sqlalchemy import func, select

from receiver.ledger.database import Database
from receiver.ledger.tables import jobs
from receiver.model import FINAL_STATES, JobState, Reason

# Jobs of a batch that are counted, newest first, and jobs among which batches are looked for.
MOST_COUNTED, WINDOW = 50_000, 20_000


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """A batch: its jobs by state, and those that failed by reason."""

    name: str
    states: dict[JobState, int]
    reasons: dict[Reason, int]

    @property
    def total(self) -> int:
        """All jobs."""
        return sum(self.states.values())

    @property
    def ended(self) -> int:
        """Jobs in a final state."""
        return sum(self.states.get(state, 0) for state in FINAL_STATES)

    @property
    def lost(self) -> int:
        """Jobs that a retry may help."""
        return self.states.get(JobState.FAILED, 0) + self.states.get(JobState.EXPIRED, 0)


@dataclass(frozen=True, slots=True)
class RecentBatch:
    """A batch among the newest jobs: these by state, and the newest one's ref."""

    name: str
    states: dict[JobState, int]
    newest: str

    @property
    def jobs(self) -> int:
        """How many jobs these are."""
        return sum(self.states.values())


class BatchQueries:
    """Reads batches."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def progress(self, name: str) -> BatchProgress | None:
        """Return the numbers of a batch; None if no job belongs to it."""
        within = select(jobs.c.state, jobs.c.reason).where(jobs.c.batch == name)
        newest = within.order_by(jobs.c.ref.desc()).limit(MOST_COUNTED).subquery()
        query = select(newest.c.state, newest.c.reason, func.count())
        grouped = query.group_by(newest.c.state, newest.c.reason)
        rows = self._database.read(lambda connection: connection.execute(grouped).all())
        states, reasons = Counter[JobState](), Counter[Reason]()
        for state, reason, count in rows:
            states[JobState(state)] += count
            if reason:
                reasons[Reason(reason)] += count
        return BatchProgress(name, dict(states), dict(reasons.most_common())) if rows else None

    def recent(self, limit: int = 50) -> list[RecentBatch]:
        """Return the batches of the newest jobs, the one with the newest job first."""
        newest = select(jobs.c.batch, jobs.c.state, jobs.c.ref).order_by(jobs.c.ref.desc())
        window = newest.limit(WINDOW).subquery()
        last = func.max(window.c.ref)
        query = (
            select(window.c.batch, window.c.state, func.count(), last)
            .where(window.c.batch.isnot(None))
            .group_by(window.c.batch, window.c.state)
            .order_by(last.desc())
        )
        rows = self._database.read(lambda connection: connection.execute(query).all())
        found: dict[str, RecentBatch] = {}
        for name, state, count, ref in rows:
            found.setdefault(name, RecentBatch(name, {}, ref)).states[JobState(state)] = count
        return list(found.values())[:limit]
