"""The version of the ledger's schema: what it is, what it must be, and how it gets there."""

import fcntl
from pathlib import Path

from sqlalchemy import URL, Connection, create_engine, inspect, text

from receiver import failpoints
from receiver.errors import LedgerError
from receiver.ledger import queue_schema
from receiver.ledger.database import Database
from receiver.ledger.database_errors import translated_errors
from receiver.ledger.sqlite import sqlite_address

# The newest migration; a test holds it against the folder.
HEAD = "0004"

_MIGRATIONS = Path(__file__).with_name("migrations")
# How long a migration waits for a lock.
_PATIENCE = "5s"
# Any number will do, as long as every process of ours asks PostgreSQL for the same one.
_MIGRATION_LOCK = 0x6C656467

_IS_MARKED_COPY = text("SELECT obj_description(to_regclass('jobs'), 'pg_class') IS NOT NULL")
_MARK_COPY = text("COMMENT ON TABLE jobs IS 'receiver: a copy that is not whole yet'")
_UNMARK_COPY = text("COMMENT ON TABLE jobs IS NULL")


def version(database: Database) -> str | None:
    """Return the schema version of the ledger, None where it has no schema yet; raise LedgerError if it cannot be read."""
    return database.read(_version)


def mark_unfinished_copy(connection: Connection) -> None:
    """Mark this PostgreSQL as a copy that is not complete, so that no service uses it."""
    connection.execute(_MARK_COPY)


def unmark_copy(connection: Connection) -> None:
    """Declare a copy complete."""
    connection.execute(_UNMARK_COPY)


def is_unfinished_copy(connection: Connection) -> bool:
    """Return whether this ledger is a copy in PostgreSQL that is not complete yet."""
    return connection.dialect.name == "postgresql" and bool(
        connection.execute(_IS_MARKED_COPY).scalar()
    )


def _queue_is_old(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql" and queue_schema.is_old(connection)


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def require_current(database: Database) -> None:
    """Raise LedgerError, with the remedy, if the schema is older than this code. A newer one only adds to it, so that releases overlap."""
    found = version(database)
    if is_old(found):
        raise LedgerError(
            f"the ledger's schema is {found or 'missing'}, this release needs {HEAD}: run `receiver migrate`"
        )
    if database.read(is_unfinished_copy):
        raise LedgerError(
            "the ledger is a copy that is not whole yet: run `receiver migrate --from` again, with the old service stopped"
        )
    if database.read(_queue_is_old):
        raise LedgerError(
            "the ledger's PostgreSQL lacks tables of Procrastinate's, or has old ones: run `receiver migrate`"
        )


def is_old(found: str | None) -> bool:
    """Say whether a schema of that version has to be migrated before this code can use it; versions are numbers of four digits."""
    return found is None or found < HEAD


def migrate(url: str) -> None:
    """Bring the ledger at ``url`` to HEAD, one process at a time; harmless when it is there already. Raise LedgerError if that fails."""
    if not url.startswith("sqlite:///"):
        _upgrade(url)
        return
    path = Path(url.removeprefix("sqlite:///"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(path.name + ".lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            path.touch(
                mode=0o600
            )  # prompts and URLs stand in it; SQLite gives its other files the same mode
            _upgrade(sqlite_address(path))
    except OSError as error:
        raise LedgerError(f"the ledger cannot be made: {error}") from error


def _upgrade(url: str | URL) -> None:
    from alembic import command  # noqa: PLC0415 - 0.2 s of import that only a migration needs
    from alembic.config import Config  # noqa: PLC0415 - as above

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    engine = create_engine(url)
    try:
        with translated_errors(), engine.begin() as connection:
            on_postgresql = connection.dialect.name == "postgresql"
            if on_postgresql:
                connection.execute(
                    text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK}
                )
                # The service goes on meanwhile: better no migration yet than everybody waiting behind one that waits for a long read.
                connection.execute(text(f"SET LOCAL lock_timeout = '{_PATIENCE}'"))
            else:
                # The driver would begin too late: DDL must roll back as one when the process dies half-way.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            if is_old(_version(connection)):
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                failpoints.reached(failpoints.Point.MIGRATED)
            if on_postgresql:
                queue_schema.bring_up(connection)
    finally:
        engine.dispose()
