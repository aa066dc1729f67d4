"""The version of the ledger's schema: which one it has, which one we need, and migration."""

from pathlib import Path

from sqlalchemy import URL, Connection, create_engine, inspect, text

from receiver import data_dir, failpoints
from receiver.errors import LedgerError
from receiver.ledger.database import Database
from receiver.ledger.database_errors import translated_errors
from receiver.ledger.sqlite import sqlite_address

# The newest migration; a test compares it with the folder.
HEAD = "0019"

_MIGRATIONS = Path(__file__).with_name("migrations")
# How long a migration waits for a lock.
_LOCK_TIMEOUT = "5s"
# Any number is good if all our processes use the same one.
_MIGRATION_LOCK = 0x6C656467

_IS_MARKED_COPY = text("SELECT obj_description(to_regclass('jobs'), 'pg_class') IS NOT NULL")
_MARK_COPY = text("COMMENT ON TABLE jobs IS 'receiver: a copy that is not whole yet'")
_UNMARK_COPY = text("COMMENT ON TABLE jobs IS NULL")


def version(database: Database) -> str | None:
    """Return the schema version, None if there is no schema; raise LedgerError if unreadable."""
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


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def require_current(database: Database) -> None:
    """Raise LedgerError with the remedy if the schema is too old for this code.

    A newer schema is fine: migrations only add, so that releases can overlap.
    """
    found = version(database)
    if is_old(found):
        raise LedgerError(
            f"the ledger's schema is {found or 'missing'}, this release needs {HEAD}: "
            "run `receiver migrate`"
        )
    if database.read(is_unfinished_copy):
        raise LedgerError(
            "the ledger is a copy that is not whole yet: "
            "run `receiver migrate --from` again, with the old service stopped"
        )


def is_old(found: str | None) -> bool:
    """Return whether this version (four digits) is too old for this code."""
    return found is None or found < HEAD


def migrate(url: str) -> str:
    """Migrate the ledger at ``url`` to HEAD, one process at a time; return its schema version.

    The version is newer than HEAD if a later release migrated the ledger. Raise LedgerError if the
    migration fails.
    """
    if not url.startswith("sqlite:///"):
        return _upgrade(url)
    path = Path(url.removeprefix("sqlite:///"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with data_dir.locked(path.with_name(path.name + ".lock")):
            # It contains prompts and URLs. SQLite gives its other files the same mode.
            path.touch(mode=0o600)
            return _upgrade(sqlite_address(path))
    except OSError as error:
        raise LedgerError(f"the ledger cannot be made: {error}") from error


def _upgrade(url: str | URL) -> str:
    from alembic import command  # noqa: PLC0415 - 0.2 s of import that only a migration needs
    from alembic.config import Config  # noqa: PLC0415 - as above

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    engine = create_engine(url)
    try:
        with translated_errors(), engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(
                    text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK}
                )
                # The service runs meanwhile. While the migration waits for a long read, all others
                # would wait for the migration, so it stops waiting soon.
                connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'"))
            else:
                # The driver would begin too late: all DDL must be in one transaction.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            if is_old(_version(connection)):
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                failpoints.reached(failpoints.Point.MIGRATED)
            return str(_version(connection))
    finally:
        engine.dispose()
