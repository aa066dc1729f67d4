"""What identifies a ledger and the sessions that began on it; all its processes share both."""

import secrets
from functools import partial

from sqlalchemy import Connection, delete, select

from receiver.ledger.database import Database
from receiver.ledger.tables import identity

_LEDGER, _SESSIONS = "ledger", "sessions"


def ledger_id(database: Database) -> str:
    """Return the random id of this ledger, which is created at the first call."""
    return _value(database, _LEDGER)


class Sessions:
    """The epoch of the dashboard's sessions: a random text that each session has in its cookie.

    A logout changes it, which ends every session on every machine. It is random instead of a
    counter, so that no old epoch returns when a ledger is restored from a backup.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def epoch(self) -> str:
        """Return the current epoch; raise LedgerError if it cannot be read."""
        return _value(self._database, _SESSIONS)

    def end(self) -> None:
        """End every session; raise LedgerError if that cannot be stored."""
        self._database.write(_end_sessions)


def _end_sessions(connection: Connection) -> None:
    connection.execute(delete(identity).where(identity.c.name == _SESSIONS))
    _create(connection, _SESSIONS)


def _value(database: Database, name: str) -> str:
    return database.read(partial(_read, name=name)) or database.write(partial(_create, name=name))


def _read(connection: Connection, name: str) -> str | None:
    query = select(identity.c.value).where(identity.c.name == name)
    return connection.execute(query).scalar_one_or_none()


def _create(connection: Connection, name: str) -> str:
    """Create the value, unless another process did meanwhile."""
    if (found := _read(connection, name)) is not None:
        return found
    value = secrets.token_hex(16)
    connection.execute(identity.insert().values(name=name, value=value))
    return value
