"""Thousands of jobs for a bench: the rows of one submit, for all in one transaction."""

from sqlalchemy import Connection, insert, select

from receiver.ledger.tables import jobs
from receiver.model import Submission, new_ref
from receiver.services import Services


def waiting_jobs(services: Services, amount: int) -> list[str]:
    """Insert ``amount`` jobs that the provider accepted, with one ``submitted_at``; return refs."""
    first = services.jobs.submit(
        Submission("a lighthouse", "gpt-image-1.5", {}), "http://127.0.0.1"
    )
    services.jobs.record_accepted(first.ref, f"task-{first.ref}")
    others = [new_ref(first.submitted_at) for _ in range(amount - 1)]

    def repeat(connection: Connection) -> None:
        row = connection.execute(select(jobs).where(jobs.c.ref == first.ref)).mappings().one()
        connection.execute(
            insert(jobs), [{**row, "ref": ref, "provider_id": f"task-{ref}"} for ref in others]
        )

    services.database.write(repeat)
    return [first.ref, *others]
