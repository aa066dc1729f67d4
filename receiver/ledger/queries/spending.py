"""What was paid for: jobs and pictures per model and day, in any time zone."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import partial

from sqlalchemy import Connection

from receiver.ledger.database import Database
from receiver.ledger.job_totals import Snapshot
from receiver.ledger.queries.totals import REFUNDED
from receiver.model import JobState, Reason

# A job costs nothing if the provider refused it, or failed and returns the credits.
_FREE = {*REFUNDED, Reason.REFUSED}


@dataclass(frozen=True, slots=True)
class Spending:
    """The jobs of one model that were submitted on one day.

    ``pictures`` is how many were asked for by jobs that cost something; a job whose request does
    not say a number counts as one. ``free`` are jobs that cost nothing: refused, or failed at the
    provider, which returns the credits. ``model`` is "" for jobs whose request we never saw.
    """

    day: date
    provider: str
    model: str
    jobs: int
    free: int
    archived: int
    pictures: int


class SpendingQueries:
    """Reads what was paid for."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def days(self, now: float, count: int, zone: tzinfo = UTC) -> list[Spending]:
        """Return the spending of the last ``count`` days, today included, newest day first.

        Days begin at midnight in ``zone``.

        Each day is a read of its own, so that a large ledger is not read in one long transaction.
        """
        today = datetime.fromtimestamp(now, zone).date()
        found: list[Spending] = []
        for day in (today - timedelta(days=ago) for ago in range(count)):
            found += self._database.read(partial(_of_day, day=day, zone=zone))
        return found


def _of_day(connection: Connection, day: date, zone: tzinfo) -> list[Spending]:
    counted: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for one in Snapshot(connection).of(midnight(day, zone), midnight(day + timedelta(1), zone)):
        sums = counted[one.provider, one.model]
        sums["jobs"] += one.jobs
        if one.state == JobState.FAILED and one.reason in _FREE:
            sums["free"] += one.jobs
        else:
            sums["pictures"] += one.pictures
        if one.state == JobState.ARCHIVED:
            sums["archived"] += one.jobs
    kinds = ("jobs", "free", "archived", "pictures")
    found = [
        Spending(day, *name, *(sums[kind] for kind in kinds)) for name, sums in counted.items()
    ]
    return sorted(found, key=lambda one: (-one.jobs, one.model, one.provider))


def midnight(day: date, zone: tzinfo) -> float:
    """Return when a day begins in a time zone, in seconds since the epoch."""
    return datetime.combine(day, time(), zone).timestamp()
