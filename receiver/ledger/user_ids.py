"""Our account's id at a provider that signs for all its customers with one key.

It is learnt once, from a signed callback about a task whose id we know from the answer to our own
submit, and kept with the ledger, so that all machines know it.
"""

from sqlalchemy import Connection, insert, select

from receiver.ledger.jobs import find_job
from receiver.ledger.tables import deliveries, identity
from receiver.model import Provider


def learnt_user_id(connection: Connection, provider: Provider) -> str | None:
    """Return our account's id at a provider; None if it is not known yet."""
    named = select(identity.c.value).where(identity.c.name == _row(provider))
    return connection.execute(named).scalar_one_or_none()


def learn_user_id(
    connection: Connection, provider: Provider, ref: str, provider_id: str, user_id: str
) -> bool:
    """Keep the account's id if the task is certainly ours; return whether it is ours.

    The task's id must be that of the job, and no delivery may be stored yet: an id that a callback
    named, before the answer to the submit was read, may be anybody's.
    """
    known = learnt_user_id(connection, provider)
    if known is not None:
        return known == user_id
    job = find_job(connection, ref, locked=True)
    reported = select(deliveries.c.id).where(deliveries.c.ref == ref).limit(1)
    if job is None or job.provider_id != provider_id or connection.execute(reported).first():
        return False
    connection.execute(insert(identity).values(name=_row(provider), value=user_id))
    return True


def _row(provider: Provider) -> str:
    return f"{provider}_user_id"
