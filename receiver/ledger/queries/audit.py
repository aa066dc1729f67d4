"""The audit: whether every job is accounted for, and whether the ledger's invariants hold."""

from collections import Counter
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Table, and_, func, or_, select

from receiver.ledger.events import ABOUT_THE_JOB
from receiver.ledger.job_totals import Snapshot
from receiver.ledger.tables import assets, events, jobs
from receiver.model import FINAL_STATES, AssetState, JobState


@dataclass(frozen=True, slots=True)
class Audit:
    """The counts of the conservation equation, and the invariants that do not hold.

    ``broken`` has the refs that break each invariant, 20 at most.
    """

    submitted: int
    archived: int
    failed: int
    expired: int
    in_flight: int
    broken: dict[str, list[str]]

    @property
    def difference(self) -> int:
        """Submitted jobs that are not accounted for; if it is not zero, something is lost."""
        return self.submitted - self.archived - self.failed - self.expired - self.in_flight

    @property
    def ok(self) -> bool:
        """Whether every invariant holds."""
        return self.difference == 0 and not self.broken


def audit(connection: Connection, since: str = "") -> Audit:
    """Count the jobs in one way and what became of them in another, and compare.

    Ends are counted by the events that announced them, the other jobs by their ``due_at``. With
    ``since``, only jobs with this ref or a later one are examined like that: of the jobs before it,
    a final state counts as an end.
    """
    examined = jobs.c.ref >= since
    numbers = count_by_state(connection) if since else _by_state(connection)
    submitted, ends = sum(numbers.values()), _announced_ends(connection, since)
    if since:  # counting the few examined jobs is faster than counting all the earlier ones
        numbers.subtract(_by_state(connection, examined, jobs.c.state.in_(FINAL_STATES)))
        ends.update({state: numbers[state] for state in FINAL_STATES})
    in_flight = _count(connection, jobs.c.due_at.isnot(None))
    broken = {
        invariant: refs
        for invariant, condition in _violations(since).items()
        if (refs := _refs(connection, and_(examined, condition)))
    }
    archived, failed, expired = (
        ends[JobState.ARCHIVED],
        ends[JobState.FAILED],
        ends[JobState.EXPIRED],
    )
    return Audit(submitted, archived, failed, expired, in_flight, broken)


def count_by_state(connection: Connection) -> Counter[str]:
    """Count the jobs in each state, with the totals that the ledger keeps."""
    snapshot, found = Snapshot(connection), Counter[str]()
    if snapshot.is_empty:
        return _by_state(connection)
    for one in snapshot.of():
        found[one.state] += one.jobs
    return found


def _by_state(connection: Connection, *which: ColumnElement[bool]) -> Counter[str]:
    question = select(jobs.c.state, func.count()).where(*which).group_by(jobs.c.state)
    return Counter(dict(connection.execute(question).all()))


def _announced_ends(connection: Connection, since: str) -> Counter[str]:
    """Count the jobs by the end that an event of their present round announced."""
    # coalesce keeps SQLite from reading the events of all jobs in the order of their types.
    name = func.coalesce(events.c.type, "").label("name")
    question = (
        select(name, func.count())
        .join_from(jobs, events, _own_event(since))
        .where(jobs.c.ref >= since, name.in_([f"job.{state}" for state in FINAL_STATES]))
        .group_by(name)
    )
    found = connection.execute(question)
    return Counter({name.removeprefix("job."): number for name, number in found})


def _own_event(since: str) -> ColumnElement[bool]:
    """Return the condition of a job's events of its present round, not of those of its assets."""
    return and_(_own(events, since), events.c.idx == ABOUT_THE_JOB, events.c.round == jobs.c.round)


def _own(table: Table, since: str) -> ColumnElement[bool]:
    """Return the condition of a job's rows; ``since`` keeps PostgreSQL from reading all others."""
    own = table.c.ref == jobs.c.ref
    return and_(own, table.c.ref >= since) if since else own


def _violations(since: str) -> dict[str, ColumnElement[bool]]:
    """Return each invariant's name with the condition of the jobs that break it."""
    own = _own(assets, since)
    any_asset = select(assets.c.idx).where(own).exists()
    lost = select(assets.c.idx).where(own, assets.c.state != AssetState.ARCHIVED).exists()
    pending = select(assets.c.idx).where(own, assets.c.state == AssetState.PENDING).exists()
    final = jobs.c.state.in_(FINAL_STATES)
    end = select(events.c.id).where(_own_event(since), events.c.type == "job." + jobs.c.state)
    return {
        "an archived job has assets, all of them archived": and_(
            jobs.c.state == JobState.ARCHIVED, or_(~any_asset, lost)
        ),
        "a final job has no pending asset": and_(final, pending),
        "an archiving job has assets": and_(jobs.c.state == JobState.ARCHIVING, ~any_asset),
        "every end is announced by its event": and_(final, ~end.exists()),
    }


def _count(connection: Connection, condition: ColumnElement[bool]) -> int:
    counted = select(func.count()).select_from(jobs).where(condition)
    return int(connection.execute(counted).scalar_one())


def _refs(connection: Connection, condition: ColumnElement[bool]) -> list[str]:
    question = select(jobs.c.ref).where(condition).order_by(jobs.c.ref).limit(20)
    return list(connection.execute(question).scalars())
