"""The audit: whether every job is accounted for, and whether the ledger's invariants hold."""

from collections import Counter
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Table, and_, func, or_, select

from receiver.ledger.events import ABOUT_THE_JOB
from receiver.ledger.job_totals import Snapshot
from receiver.ledger.tables import assets, events, jobs
from receiver.model import FINAL_STATES, AssetState, JobState

_ANNOUNCED = "every end is announced by its event"


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
    ``since``, only jobs from this ref on are examined like that; for earlier jobs a final state
    counts as an end.
    """
    examined = jobs.c.ref >= since
    numbers = count_by_state(connection) if since else _by_state(connection)
    found = _by_state(connection, examined, jobs.c.state.in_(FINAL_STATES)) if since else numbers
    submitted, announced = sum(numbers.values()), _announced_ends(connection, since)
    ends = {
        state: sum(announced[job_state, state] for job_state in JobState)
        + numbers[state]
        - found[state]
        for state in FINAL_STATES
    }
    in_flight = _count(connection, jobs.c.due_at.isnot(None))
    violations = _violations(since)
    if all(announced[state, state] == found[state] for state in FINAL_STATES):
        del violations[_ANNOUNCED]  # usually all are; a search for the others would read all events
    broken = {
        invariant: refs
        for invariant, condition in violations.items()
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
    query = select(jobs.c.state, func.count()).where(*which).group_by(jobs.c.state)
    return Counter(dict(connection.execute(query).all()))


def _own(table: Table, since: str) -> ColumnElement[bool]:
    """Return the condition of a job's rows; ``since`` keeps PostgreSQL from reading all others."""
    own = table.c.ref == jobs.c.ref
    return and_(own, table.c.ref >= since) if since else own


def _is_end(since: str, *types: str) -> ColumnElement[bool]:
    """Return the condition of events of a job's end in its present round."""
    return and_(
        _own(events, since),
        events.c.idx == ABOUT_THE_JOB,
        _type(since).in_(types),
        events.c.round == jobs.c.round,
    )


def _type(since: str) -> ColumnElement[str]:
    """Return an event's type; coalesce keeps SQLite from reading the events of all jobs by it."""
    return func.coalesce(events.c.type, "") if since else events.c.type


def _announced_ends(connection: Connection, since: str) -> Counter[tuple[str, str]]:
    """Count the jobs by their state, and by an end that was announced."""
    ends = {f"job.{state}": state for state in FINAL_STATES}
    kind = _type(since).label("kind")
    query = (
        select(jobs.c.state, kind, func.count())
        .join_from(jobs, events, _is_end(since, *ends))
        .where(jobs.c.ref >= since)
        .group_by(jobs.c.state, kind)
    )
    rows = connection.execute(query)
    return Counter({(state, str(ends[kind])): count for state, kind, count in rows})


def _announced(state: JobState, since: str) -> ColumnElement[bool]:
    """Return the condition of jobs with an event of this end in their present round."""
    return select(events.c.id).where(_is_end(since, f"job.{state}")).exists()


def _violations(since: str) -> dict[str, ColumnElement[bool]]:
    """Return each invariant's name with the condition of the jobs that break it."""
    own = _own(assets, since)
    any_asset = select(assets.c.idx).where(own).exists()
    lost = select(assets.c.idx).where(own, assets.c.state != AssetState.ARCHIVED).exists()
    # Few assets are pending, and only those have a due_at.
    pending = jobs.c.ref.in_(select(assets.c.ref).where(assets.c.due_at.isnot(None)))
    final = jobs.c.state.in_(FINAL_STATES)
    announced = or_(
        *(and_(jobs.c.state == state, _announced(state, since)) for state in FINAL_STATES)
    )
    return {
        "an archived job has assets, all of them archived": and_(
            jobs.c.state == JobState.ARCHIVED, or_(~any_asset, lost)
        ),
        "a final job has no pending asset": and_(final, pending),
        "an archiving job has assets": and_(jobs.c.state == JobState.ARCHIVING, ~any_asset),
        _ANNOUNCED: and_(final, ~announced),
    }


def _count(connection: Connection, condition: ColumnElement[bool]) -> int:
    counted = select(func.count()).select_from(jobs).where(condition)
    return int(connection.execute(counted).scalar_one())


def _refs(connection: Connection, condition: ColumnElement[bool]) -> list[str]:
    query = select(jobs.c.ref).where(condition).order_by(jobs.c.ref).limit(20)
    return list(connection.execute(query).scalars())
