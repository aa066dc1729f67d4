"""Totals of jobs that are kept in the ledger, so that counts and costs need not read every job.

The jobs submitted in the same half-hour are summed up once it is ``SETTLED`` seconds old. From then
on a trigger of the table ``jobs`` records every insertion, change and deletion of these jobs in
``changed_jobs``. The next sum of the half-hour removes these records. Readers of totals count the
other jobs directly: the newest ones, and those of half-hours with recorded changes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from math import ceil, floor, inf
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Row,
    Select,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
)
from sqlalchemy import text as sql

from receiver.ledger.database import Database
from receiver.ledger.tables import RowNumber, jobs, metadata
from receiver.model import first_ref, ref_time

# Seconds that are summed up together. The days of nearly every time zone consist of half-hours.
WIDTH = 1800
# Seconds after its end that a half-hour is summed up; by then nearly all of its jobs have ended.
SETTLED = 3600.0
# Half-hours that one transaction handles, and recorded changes that are read at once.
_PORTION, _CHANGES = 20, 10_000
# With more recorded changes than this, reading the totals would take longer than counting jobs.
_MOST_STALE = 500
# How long writers may wait for the moment in which the changes of more jobs become recorded.
_LOCK_TIMEOUT = "100ms"

job_totals = Table(
    "job_totals",
    metadata,
    Column("start", BigInteger, primary_key=True, autoincrement=False),  # epoch seconds
    Column("provider", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("state", Text, primary_key=True),
    Column("reason", Text, primary_key=True),  # "" without
    Column("jobs", BigInteger, nullable=False),
    # Pictures asked for; a job whose request names no number counts as one.
    Column("pictures", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
# One row or none: changes of the jobs below this ref are recorded.
summed_jobs = Table("summed_jobs", metadata, Column("below", Text, primary_key=True))
# A row for each change; they are not unique, so that transactions do not wait for each other.
changed_jobs = Table(
    "changed_jobs",
    metadata,
    Column("id", RowNumber, primary_key=True, autoincrement=True),
    Column("ref", Text, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Total:
    """How many jobs share these values, and how many pictures they asked for."""

    provider: str
    model: str
    state: str
    reason: str  # "" without
    jobs: int
    pictures: int

    def __add__(self, other: "Total") -> "Total":
        """Return the sum of two totals that share their other values."""
        both = (self.jobs + other.jobs, self.pictures + other.pictures)
        return Total(self.provider, self.model, self.state, self.reason, *both)


_GROUP = (jobs.c.provider, jobs.c.model, jobs.c.state, jobs.c.reason)
_SUMS = (func.count(), func.sum(func.coalesce(jobs.c.requested, 1)))
_KEPT_GROUP = (job_totals.c.provider, job_totals.c.model, job_totals.c.state, job_totals.c.reason)
_KEPT_SUMS = (func.sum(job_totals.c.jobs), func.sum(job_totals.c.pictures))


class Snapshot:
    """What is known about the totals in one transaction that reads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        below = connection.execute(select(summed_jobs.c.below)).scalar()
        changed = select(changed_jobs.c.ref).distinct().limit(_CHANGES)
        refs = connection.execute(changed).scalars().all() if below else []
        self._stale = sorted({_start(ref) for ref in refs})
        # Too many changes to look at: nothing is taken from the totals.
        is_usable = below and len(refs) < _CHANGES and len(self._stale) <= _MOST_STALE
        self._end = ref_time(below).timestamp() if below and is_usable else 0.0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is taken from kept totals, so that every job is counted."""
        return self._end == 0.0

    def of(self, first: float = 0.0, end: float = inf) -> list[Total]:
        """Return the totals of the jobs submitted from ``first`` until before ``end``."""
        low, high = ceil(first / WIDTH) * WIDTH, floor(min(end, self._end) / WIDTH) * WIDTH
        if low >= high:
            return _merged(self._counted(first, end))
        stale = [start for start in self._stale if low <= start < high]
        ranges = [(first, low), *((start, start + WIDTH) for start in stale), (high, end)]
        counted = (self._counted(*one) for one in ranges if one[0] < one[1])
        return _merged([*self._kept(low, high, stale), *(one for some in counted for one in some)])

    def _kept(self, low: int, high: int, stale: Sequence[int]) -> list[Total]:
        within = (job_totals.c.start >= low, job_totals.c.start < high)
        query = select(*_KEPT_GROUP, *_KEPT_SUMS).where(*within).group_by(*_KEPT_GROUP)
        if stale:
            query = query.where(job_totals.c.start.not_in(stale))
        return [_total(row) for row in self._connection.execute(query)]

    def _counted(self, first: float, end: float) -> list[Total]:
        return [_total(row) for row in self._connection.execute(_count(first, end))]


class JobTotals:
    """Keeps the totals up to date."""

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self._database = database
        self._now = now

    def update(self) -> int:
        """Sum up what is settled or has changed; return how many half-hours that were.

        It can be interrupted at any time, and several processes may do it at once.
        """
        summed = self._sum_changed()
        while self._database.write(self._advance):
            summed += self._sum_changed()
        return summed + self._sum_changed()

    def _advance(self, connection: Connection) -> int:
        """Record changes of settled jobs from now on, and each half-hour of them as changed.

        Return how many half-hours that were, 20 at most.
        """
        settled = (self._now() - SETTLED) // WIDTH * WIDTH
        if connection.dialect.name == "postgresql":
            # Transactions that change jobs may have read the old limit. Once we have this lock they
            # are over, and the next ones will read the new limit.
            connection.execute(sql(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'"))
            connection.execute(sql("LOCK TABLE jobs IN SHARE MODE"))
        below = connection.execute(select(summed_jobs.c.below)).scalar() or ""
        found = list(islice(_half_hours(connection, below, first_ref(settled)), _PORTION))
        if found:
            connection.execute(insert(changed_jobs), [{"ref": first_ref(one)} for one in found])
            connection.execute(delete(summed_jobs))
            connection.execute(insert(summed_jobs), {"below": first_ref(found[-1] + WIDTH)})
        return len(found)

    def _sum_changed(self) -> int:
        """Sum up the half-hours with recorded changes; return how many there were."""
        starts: set[int] = set()
        while changes := self._database.read(_changes):
            for portion in _portions(changes):
                # Read after the changes were, so that every one of them is in the sums.
                sums = self._database.read(partial(_sums, starts=list(portion)))
                numbers = [number for found in portion.values() for number in found]
                try:
                    self._database.write(partial(_replace, sums=sums, numbers=numbers))
                except _SupersededError:
                    return len(starts)
                starts |= portion.keys()
        return len(starts)


class _SupersededError(Exception):
    """Another process forgot some of these changes meanwhile: its sums may be newer than ours."""


def _half_hours(connection: Connection, low: str, end: str) -> Iterator[int]:
    """Yield the starts of the half-hours that have jobs, from the ref ``low`` until ``end``."""
    while True:
        within = select(func.min(jobs.c.ref)).where(jobs.c.ref >= low, jobs.c.ref < end)
        if (ref := connection.execute(within).scalar()) is None:
            return
        yield (start := _start(ref))
        low = first_ref(start + WIDTH)


def _changes(connection: Connection) -> dict[int, list[int]]:
    """Return the half-hours of recorded changes, and the numbers of these."""
    found: dict[int, list[int]] = {}
    query = select(changed_jobs).order_by(changed_jobs.c.id).limit(_CHANGES)
    for number, ref in connection.execute(query):
        found.setdefault(_start(ref), []).append(number)
    return found


def _portions(changes: dict[int, list[int]]) -> Iterator[dict[int, list[int]]]:
    items = iter(changes.items())
    while portion := dict(islice(items, _PORTION)):
        yield portion


def _sums(connection: Connection, starts: Sequence[int]) -> dict[int, list[Total]]:
    return {
        start: [_total(row) for row in connection.execute(_count(start, start + WIDTH))]
        for start in starts
    }


def _replace(connection: Connection, sums: dict[int, list[Total]], numbers: Sequence[int]) -> None:
    """Store sums instead of what was kept, and forget the changes that they contain."""
    gone = sum(
        connection.execute(delete(changed_jobs).where(changed_jobs.c.id.in_(some))).rowcount
        for some in (numbers[at : at + 1000] for at in range(0, len(numbers), 1000))
    )
    if gone < len(numbers):
        raise _SupersededError
    connection.execute(delete(job_totals).where(job_totals.c.start.in_(list(sums))))
    rows = [{"start": start, **asdict(one)} for start, found in sums.items() for one in found]
    if rows:
        connection.execute(insert(job_totals), rows)


def _count(first: float, end: float) -> Select[Any]:
    """Return the query that counts jobs directly."""
    query = select(*_GROUP, *_SUMS).where(jobs.c.ref >= first_ref(first)).group_by(*_GROUP)
    return query if end == inf else query.where(jobs.c.ref < first_ref(end))


def _start(ref: str) -> int:
    return int(ref_time(ref).timestamp()) // WIDTH * WIDTH


def _total(row: Row[*tuple[Any, ...]]) -> Total:
    provider, model, state, reason, number, pictures = row
    return Total(provider, model, state, reason or "", int(number), int(pictures))


def _merged(found: Iterable[Total]) -> list[Total]:
    """Return one total for each provider, model, state and reason."""
    sums: dict[tuple[str, str, str, str], Total] = {}
    for one in found:
        key = (one.provider, one.model, one.state, one.reason)
        before = sums.get(key)
        sums[key] = one if before is None else before + one
    return list(sums.values())
