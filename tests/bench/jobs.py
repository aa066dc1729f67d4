"""Thousands of jobs for a bench: the rows of one submit, for all in one transaction."""

from collections.abc import Sequence

from sqlalchemy import Connection, insert, select

from receiver.ledger.tables import jobs
from receiver.model import Submission, new_ref
from receiver.services import Services


def waiting_jobs(services: Services, amount: int, refs: Sequence[str] = ()) -> list[str]:
    """Insert ``amount`` jobs that the provider accepted, with one ``submitted_at``; return refs.

    ``refs`` are their refs, so that several ledgers can have the same jobs.
    """
    first, *others = refs or [new_ref(services.now()) for _ in range(amount)]
    submission = Submission("a lighthouse", "gpt-image-1.5", {})
    services.jobs.submit(submission, "http://127.0.0.1", first)
    services.jobs.record_accepted(first, f"task-{first}")

    def repeat(connection: Connection) -> None:
        row = connection.execute(select(jobs).where(jobs.c.ref == first)).mappings().one()
        connection.execute(
            insert(jobs), [{**row, "ref": ref, "provider_id": f"task-{ref}"} for ref in others]
        )

    services.database.write(repeat)
    return [first, *others]
