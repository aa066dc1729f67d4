"""Totals over all jobs: counts by state, usage by model, and the audit."""

from dataclasses import dataclass

from sqlalchemy import Connection, and_, case, func, select

from receiver.ledger.database import Database
from receiver.ledger.queries.audit import Audit, audit
from receiver.ledger.tables import jobs
from receiver.model import FINAL_STATES, JobState, Reason, new_ref

# Jobs that are always audited as a whole: up to so many it takes milliseconds.
FEW = 20_000
# Seconds. Long before, every job has ended; only an operator's retry changes it later.
RECENT = 2 * 24 * 3600.0

# Failures for which the provider returns the credits.
REFUNDED = (
    Reason.PROVIDER_ERROR,
    Reason.INPUT_MODERATION,
    Reason.OUTPUT_MODERATION,
    Reason.VIOLATION,
)


@dataclass(frozen=True, slots=True)
class Usage:
    """What became of a model's jobs; every submitted job is counted in exactly one other field.

    ``model`` is "" for jobs whose request we never saw.
    """

    provider: str
    model: str
    submitted: int
    archived: int
    refunded: int  # failed at the provider, including moderation
    refused: int  # never accepted by the provider, nothing owed
    failed: int  # paid, but the result was missing or was not an image
    expired: int
    in_flight: int


class Totals:
    """Counts over all jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def counts(self) -> dict[str, int]:
        """Return the number of jobs in each state, also of states without jobs."""
        question = select(jobs.c.state, func.count()).group_by(jobs.c.state)
        rows = self._database.read(lambda connection: connection.execute(question).all())
        counted = {state: int(number) for state, number in rows}
        return {state.value: counted.get(state.value, 0) for state in JobState}

    def usage(self) -> list[Usage]:
        """Return what became of each model's jobs, the most used model first."""
        failed, refunded = jobs.c.state == JobState.FAILED, jobs.c.reason.in_(REFUNDED)
        kinds = {
            "archived": jobs.c.state == JobState.ARCHIVED,
            "refunded": and_(failed, refunded),
            "refused": and_(failed, jobs.c.reason == Reason.REFUSED),
            "failed": and_(failed, ~refunded, jobs.c.reason != Reason.REFUSED),
            "expired": jobs.c.state == JobState.EXPIRED,
            "in_flight": jobs.c.state.not_in(FINAL_STATES),
        }
        counted = [
            func.count(case((condition, 1))).label(kind) for kind, condition in kinds.items()
        ]
        columns = (jobs.c.provider, jobs.c.model, func.count().label("submitted"), *counted)
        question = select(*columns).group_by(jobs.c.provider, jobs.c.model)
        question = question.order_by(func.count().desc(), jobs.c.model)
        return self._database.read(
            lambda connection: [Usage(**row._mapping) for row in connection.execute(question)]  # noqa: SLF001 - documented
        )

    def audit(self) -> Audit:
        """Check every invariant of the ledger in one snapshot."""
        return self._database.read(audit)

    def recent_audit(self, now: float) -> Audit:
        """Check the invariants of the jobs that were submitted in the last ``RECENT`` seconds.

        With few jobs in the ledger check them all. It is for those who ask often: with a million
        jobs the whole audit takes seconds, this one a fraction of one.
        """

        def check(connection: Connection) -> Audit:
            many = select(jobs.c.ref).offset(FEW).limit(1)
            since = new_ref(now - RECENT) if connection.execute(many).first() else ""
            return audit(connection, since)

        return self._database.read(check)
