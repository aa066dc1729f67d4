"""Totals over all jobs: counts by state, usage by model, and the audit."""

from dataclasses import dataclass

from sqlalchemy import and_, case, func, select

from receiver.ledger.database import Database
from receiver.ledger.queries.audit import Audit, audit
from receiver.ledger.tables import jobs
from receiver.model import FINAL_STATES, JobState, Reason

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
