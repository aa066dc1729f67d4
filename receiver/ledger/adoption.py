"""Jobs whose submit is not in the ledger: our ticket or the provider names them."""

from contextlib import suppress

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from receiver.ledger.jobs import insert_job, lock_job
from receiver.ledger.rows import Job
from receiver.model import Api, Mode, Provider, Timing


def adopt_job(
    connection: Connection,
    ref: str,
    base_url: str,
    timing: Timing,
    now: float,
    provider_id: str | None = None,
    *,
    provider: Provider = Provider.GRSAI,
) -> Job:
    """Insert a job whose submit we did not see, and return it.

    We know that it is ours, because its ticket has our signature or the provider says so.
    """
    values = {
        "provider": provider,
        "api": Api.DRAW if provider is Provider.GRSAI else Api.QUEUE,
        "mode": Mode.WEBHOOK,
        "provider_id": provider_id,
        "base_url": base_url,
        "due_at": now + timing.poll_after,
        "model": "",
        "prompt": "",
        "params": "{}",
    }
    # IntegrityError: another report adopts it at the same moment.
    with suppress(IntegrityError), connection.begin_nested():
        insert_job(connection, ref, now, timing, **values)
    return lock_job(connection, ref)
