"""Totals over all jobs: counts by state, usage by model, and the audit."""

from collections import Counter, defaultdict
from dataclasses import dataclass, fields

from sqlalchemy import Connection, select

from receiver.ledger.database import Database
from receiver.ledger.job_totals import Snapshot, Total
from receiver.ledger.queries.audit import Audit, audit, count_by_state
from receiver.ledger.tables import jobs
from receiver.model import FINAL_STATES, JobState, Reason, new_ref

# Up to this many jobs are always audited completely, which takes milliseconds.
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


# The fields of ``Usage`` that are numbers.
_KINDS = [field.name for field in fields(Usage) if field.type is int]


class Totals:
    """Counts over all jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def counts(self) -> dict[str, int]:
        """Return the number of jobs in each state, also of states without jobs."""
        counted = self._database.read(count_by_state)
        return {state.value: counted[state.value] for state in JobState}

    def usage(self) -> list[Usage]:
        """Return what became of each model's jobs, the most used model first."""
        counted: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for one in self._database.read(lambda connection: Snapshot(connection).of()):
            counted[one.provider, one.model].update({"submitted": one.jobs, _end(one): one.jobs})
        found = [
            Usage(*name, *(numbers[kind] for kind in _KINDS)) for name, numbers in counted.items()
        ]
        return sorted(found, key=lambda usage: (-usage.submitted, usage.model, usage.provider))

    def audit(self) -> Audit:
        """Check every invariant of the ledger in one snapshot."""
        return self._database.read(audit)

    def recent_audit(self, now: float) -> Audit:
        """Check the invariants of the jobs that were submitted in the last ``RECENT`` seconds.

        If the ledger has few jobs, check them all. Use this for frequent checks: with a million
        jobs the whole audit takes seconds, this one a fraction of a second.
        """

        def check(connection: Connection) -> Audit:
            many = select(jobs.c.ref).offset(FEW).limit(1)
            since = new_ref(now - RECENT) if connection.execute(many).first() else ""
            return audit(connection, since)

        return self._database.read(check)


def _end(total: Total) -> str:
    """Return the field of ``Usage`` in which jobs are counted."""
    if total.state != JobState.FAILED:
        return total.state if total.state in FINAL_STATES else "in_flight"
    if total.reason == Reason.REFUSED:
        return "refused"
    return "refunded" if total.reason in REFUNDED else "failed"
