"""Our account's id at a provider that signs for all its customers with one key.

It is learnt from a signed callback about a task whose id we know from the answer to our own submit.
It is stored in the ledger, so that all machines know it, under the fingerprint of our API key
(``key``): another key may belong to another account.
"""

import json
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, delete, insert, select

from receiver.ledger.jobs import find_job
from receiver.ledger.tables import deliveries, identity
from receiver.model import Provider, Source, timestamp

# Seconds for which a mismatch is shown.
MISMATCHES_FOR = 24 * 3600.0
_MISMATCH = "account_mismatch:"


@dataclass(frozen=True, slots=True)
class Learning:
    """A genuine callback with the ticket of job ``ref``; ``key`` is our key's fingerprint."""

    provider: Provider
    key: str
    ref: str
    provider_id: str
    user_id: str


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A genuine callback about a task of ours that names an account which is not accepted.

    ``at`` is when it came, in seconds since the epoch.
    """

    provider: Provider
    user_id: str
    at: float

    def __str__(self) -> str:
        """Return it as a sentence."""
        return (
            f"{self.provider} signed a callback about a task of ours at {timestamp(self.at)} for "
            f"the account {self.user_id}, which is not accepted as ours: such callbacks are read "
            "back"
        )

    @property
    def remedy(self) -> str:
        """What to do."""
        setting = f"{self.provider}_USER_ID".upper()
        return f"set {setting} to it if that is our account, or leave {setting} out to learn it"


def learnt_user_id(connection: Connection, provider: Provider, key: str) -> str | None:
    """Return the account's id that was learnt for a key; None if it is not known yet."""
    return _value(connection, f"{provider}_user_id:{key}")


def learn_user_id(connection: Connection, found: Learning, now: float) -> bool:
    """Keep the account's id if the task is certainly ours; return whether it is ours.

    The task's id must be that of the job, and no callback may be stored yet: an id that a callback
    named, before the answer to the submit was read, may be anybody's. A job that may have been
    posted with the key before says nothing about the account of this one.
    """
    provider, key = found.provider, found.key
    if (known := learnt_user_id(connection, provider, key)) is not None:
        return known == found.user_id
    since = _since(connection, provider, key, now)
    job = find_job(connection, found.ref, locked=True)
    if job is None or job.provider_id != found.provider_id or job.submitted_at < since:
        return False
    called_back = select(deliveries.c.id).where(
        deliveries.c.ref == found.ref, deliveries.c.source == Source.CALLBACK
    )
    if connection.execute(called_back.limit(1)).first():
        return False
    _insert(connection, f"{provider}_user_id:{key}", found.user_id)
    return True


def _since(connection: Connection, provider: Provider, key: str, now: float) -> float:
    """Return the time since which jobs are certainly posted with this key, and store it.

    The first key of a ledger posted all of them.
    """
    name, names = f"{provider}_key_since:{key}", f"{provider}_"
    if (kept := _value(connection, name)) is not None:
        return float(kept)
    earlier = select(identity.c.name).where(identity.c.name.startswith(names, autoescape=True))
    since = now if connection.execute(earlier.limit(1)).first() else 0.0
    _insert(connection, name, repr(since))
    return since


def note_mismatch(connection: Connection, ref: str, provider_id: str, found: Mismatch) -> bool:
    """Keep the last mismatch of a provider if the task is ours; return whether it is.

    A job whose submit was not answered may have its id from a callback, perhaps from this one.
    """
    job = find_job(connection, ref)
    if job is None or job.provider_id != provider_id or job.answered_at is None:
        return False
    name = f"{_MISMATCH}{found.provider}"
    connection.execute(delete(identity).where(identity.c.name == name))
    _insert(connection, name, json.dumps(asdict(found)))
    return True


def find_mismatches(connection: Connection) -> list[Mismatch]:
    """Return the last mismatch of each provider that had one."""
    kept = select(identity.c.value).where(identity.c.name.startswith(_MISMATCH, autoescape=True))
    found = map(json.loads, connection.execute(kept).scalars())
    return [
        Mismatch(Provider(one["provider"]), one["user_id"], one["at"])
        for one in found
        if one["provider"] in set(Provider)  # a later release may know more
    ]


def _value(connection: Connection, name: str) -> str | None:
    return connection.execute(select(identity.c.value).where(identity.c.name == name)).scalar()


def _insert(connection: Connection, name: str, value: str) -> None:
    connection.execute(insert(identity).values(name=name, value=value))
