"""What was paid for: jobs and pictures per model and day."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial

from sqlalchemy import Connection, and_, case, func, select

from receiver.ledger.database import Database
from receiver.ledger.queries.job_list import first_ref
from receiver.ledger.queries.totals import REFUNDED
from receiver.ledger.tables import jobs
from receiver.model import JobState, Reason

# A job costs nothing if the provider refused it, or failed and returns the credits.
_FREE = and_(jobs.c.state == JobState.FAILED, jobs.c.reason.in_((*REFUNDED, Reason.REFUSED)))


@dataclass(frozen=True, slots=True)
class Spending:
    """The jobs of one model that were submitted on one day (UTC).

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

    def days(self, now: float, count: int) -> list[Spending]:
        """Return the spending of the last ``count`` days, today included, newest day first.

        Each day is a read of its own, so that a large ledger is not read in one long transaction.
        """
        today = datetime.fromtimestamp(now, UTC).date()
        found: list[Spending] = []
        for day in (today - timedelta(days=ago) for ago in range(count)):
            found += self._database.read(partial(_of_day, day=day))
        return found


def _of_day(connection: Connection, day: date) -> list[Spending]:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
    question = (
        select(
            jobs.c.provider,
            jobs.c.model,
            func.count(),
            func.count(case((_FREE, 1))),
            func.count(case((jobs.c.state == JobState.ARCHIVED, 1))),
            func.coalesce(func.sum(case((~_FREE, func.coalesce(jobs.c.requested, 1)), else_=0)), 0),
        )
        .where(jobs.c.ref >= first_ref(start), jobs.c.ref < first_ref(start + 86400))
        .group_by(jobs.c.provider, jobs.c.model)
        .order_by(func.count().desc(), jobs.c.model)
    )
    return [
        Spending(day, row[0], row[1], *(int(number) for number in row[2:]))
        for row in connection.execute(question)
    ]
