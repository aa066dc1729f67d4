"""What identifies a ledger, so that processes can tell whether they share it."""

import secrets

from sqlalchemy import Connection, select

from receiver.ledger.database import Database
from receiver.ledger.tables import identity

_LEDGER = "ledger"


def ledger_id(database: Database) -> str:
    """Return the random id of this ledger; it gets one when it is first asked for."""
    return database.read(_read) or database.write(_create)


def _read(connection: Connection) -> str | None:
    question = select(identity.c.value).where(identity.c.name == _LEDGER)
    return connection.execute(question).scalar_one_or_none()


def _create(connection: Connection) -> str:
    """Create the id, unless another process did meanwhile."""
    if (found := _read(connection)) is not None:
        return found
    value = secrets.token_hex(16)
    connection.execute(identity.insert().values(name=_LEDGER, value=value))
    return value
