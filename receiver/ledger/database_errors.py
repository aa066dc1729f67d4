"""Translation of SQLAlchemy's exceptions into LedgerError."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from receiver.errors import LedgerError

# PostgreSQL's codes for a missing table, column, function, type, schema or privilege. They do not
# mean that our statement is wrong: the ledger is being migrated or restored.
_SCHEMA_NOT_READY = ("42P01", "42703", "42883", "42704", "3F000", "42501")

# Beginnings of PgBouncer's refusals, each with the remedy.
_REMEDIES = {
    "unsupported startup parameter": "set ignore_startup_parameters = options in the pooler, and "
    "the limits with ALTER ROLE, as docs/operations.md says",
    "statement pooling mode": "set pool_mode = session in the pooler",
}


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise LedgerError if the database cannot be used; violated constraints are bugs and pass."""
    try:
        yield
    except (IntegrityError, sqlite3.IntegrityError):
        raise
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", "") not in _SCHEMA_NOT_READY:
            raise
        raise LedgerError(f"the ledger is not as this release needs it: {error.orig}") from error
    except (PoolTimeoutError, DBAPIError, sqlite3.Error) as error:
        said = str(getattr(error, "orig", error)).strip()
        remedies = [f"; {remedy}" for refusal, remedy in _REMEDIES.items() if refusal in said]
        raise LedgerError("".join(["the ledger cannot be used now: ", said, *remedies])) from error
