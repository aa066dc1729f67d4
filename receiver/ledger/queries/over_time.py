"""Figures over time: ends and failures of jobs, and how long callbacks and archiving took.

A period is divided into parts, and each part needs a few reads: exact counts, from totals that the
ledger keeps, and durations of at most ``SAMPLE`` jobs. So the cost is limited however large the
ledger is.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from itertools import pairwise
from math import ceil, inf

from sqlalchemy import Connection, select

from receiver.ledger.database import Database
from receiver.ledger.job_totals import Snapshot
from receiver.ledger.queries.model_stats import quantile
from receiver.ledger.queries.spending import midnight
from receiver.ledger.tables import assets, deliveries, jobs
from receiver.model import AssetState, Decision, Source, first_ref

# Durations read of each part of a period.
SAMPLE = 1000


@dataclass(frozen=True, slots=True)
class Durations:
    """Seconds that 50 % and 95 % of the cases took at most; None without cases."""

    half: float | None
    most: float | None


@dataclass(frozen=True, slots=True)
class Part:
    """The jobs that were submitted from ``start`` (epoch seconds) to the start of the next part.

    ``states`` counts jobs by state, ``reasons`` failed ones by reason. ``to_callback`` is from the
    submit to the callback that ended the job, ``to_archive`` from the arrival of a URL until its
    picture was archived.
    """

    start: float
    to_callback: Durations
    to_archive: Durations
    states: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)


class TimeQueries:
    """Reads the figures."""

    def __init__(self, database: Database, sample: int = SAMPLE) -> None:
        self._database = database
        self._sample = sample

    def parts(self, now: float, width: float, count: int, zone: tzinfo = UTC) -> list[Part]:
        """Return the last ``count`` parts of ``width`` seconds, the oldest first.

        The first part of each day begins at midnight in ``zone``; the last part is not over yet.
        """
        edges = [*_edges(now, width, zone, count), inf]
        reads = (partial(self._read, start=one, stop=two) for one, two in pairwise(edges))
        return [self._database.read(read) for read in reads]

    def _read(self, connection: Connection, start: float, stop: float) -> Part:
        first, end = first_ref(start), first_ref(stop)
        called = (
            select(deliveries.c.received_at - jobs.c.submitted_at)
            .join(jobs, jobs.c.ref == deliveries.c.ref)
            .where(
                deliveries.c.ref >= first,
                deliveries.c.ref < end,
                # PostgreSQL would else read all earlier jobs for a merge join.
                jobs.c.ref >= first,
                jobs.c.ref < end,
                deliveries.c.verdict == Decision.ENDED,
                deliveries.c.source == Source.CALLBACK,
            )
        )
        archived = select(assets.c.finished_at - assets.c.announced_at).where(
            assets.c.ref >= first, assets.c.ref < end, assets.c.state == AssetState.ARCHIVED
        )
        states, reasons = Counter[str](), Counter[str]()
        for one in Snapshot(connection).of(start, stop):
            states[one.state] += one.jobs
            if one.reason:
                reasons[one.reason] += one.jobs
        return Part(
            start,
            _durations(connection.execute(called.limit(self._sample)).scalars().all()),
            _durations(connection.execute(archived.limit(self._sample)).scalars().all()),
            states,
            reasons,
        )


def _edges(now: float, width: float, zone: tzinfo, count: int) -> list[float]:
    """Return when the last ``count`` parts began."""
    today = datetime.fromtimestamp(now, zone).date()
    found: list[float] = []
    for ago in range(ceil(width * count / 86400) + 1, -1, -1):
        start, end = (midnight(today - timedelta(ago - later), zone) for later in (0, 1))
        # A day on which clocks are changed has 23 or 25 hours.
        found += (start + width * number for number in range(max(1, round((end - start) / width))))
    return [start for start in found if start <= now][-count:]


def _durations(seconds: Sequence[float]) -> Durations:
    found = [max(0.0, one) for one in seconds]
    return Durations(quantile(found, 0.5), quantile(found, 0.95))
