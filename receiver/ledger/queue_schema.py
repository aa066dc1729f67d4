"""Procrastinate's tables, functions and triggers in our PostgreSQL; see ``receiver migrate``.

Procrastinate ships its schema as one file and its changes as numbered ones, but does not record
which are applied. We record it in the comment of its table of jobs: the newest applied change, and
the newest one known then. A change marked ``post`` breaks the previous release, so it waits until a
release knows newer ones: expand first, contract later.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text

from receiver.errors import LedgerError

_FOUND = text(
    "SELECT to_regclass('procrastinate_jobs') IS NOT NULL, "
    "obj_description(to_regclass('procrastinate_jobs'), 'pg_class')"
)
# DDL takes no parameters, so PostgreSQL quotes the name.
_NOTE = text("SELECT format('COMMENT ON TABLE procrastinate_jobs IS %L', CAST(:name AS text))")


def is_old(connection: Connection) -> bool:
    """Return whether the installed Procrastinate needs `receiver migrate` first."""
    there, note = connection.execute(_FOUND).one()
    return not there or _read(note)[0] < max(name for name in _changes() if not _contracts(name))


def bring_up(connection: Connection) -> None:
    """Create the schema, or apply newer changes; only one process at a time may do so."""
    there, note = connection.execute(_FOUND).one()
    changes = _changes()
    if not there:
        _run(connection, _folder() / "schema.sql")
        _note(connection, changes[-1], changes[-1])
        return
    applied, known = _read(note)
    for name in _due(
        [name for name in changes if name > applied], new_release=known != changes[-1]
    ):
        _run(connection, _folder() / "migrations" / name)
        applied = name
    _note(connection, applied, changes[-1])


def _read(note: str | None) -> tuple[str, str]:
    """Return the newest applied change, and the newest one known then."""
    applied, _, known = (note or "").partition(" ")
    return applied, known or applied


def _changes() -> list[str]:
    """Return the names of all changes of the installed Procrastinate, in order."""
    return sorted(path.name for path in (_folder() / "migrations").glob("*.sql"))


def _folder() -> Path:
    # Not imported, because that takes 0.2 s.
    package = find_spec("procrastinate")
    if package is None or package.origin is None:
        raise LedgerError(
            "PostgreSQL needs more than is installed: "
            "pip install 'webhook-image-receiver[postgres]'"
        )
    return Path(package.origin).parent / "sql"


def _contracts(name: str) -> bool:
    return "_post_" in name


def _due(pending: list[str], *, new_release: bool) -> list[str]:
    """Return the changes to apply now; ``new_release`` means that it knows new changes.

    Contracting changes after the last expanding one wait for the next release. An installation that
    skips a release gets its contracting changes too, and must stop the old release first.
    """
    last = max((place for place, name in enumerate(pending, 1) if not _contracts(name)), default=0)
    return pending[:last] or (pending if new_release else [])


def _run(connection: Connection, script: Path) -> None:
    driver: Any = connection.connection.driver_connection
    # Without parameters, so that several statements and percent signs are allowed.
    driver.execute(script.read_text(encoding="utf-8"))


def _note(connection: Connection, applied: str, known: str) -> None:
    connection.exec_driver_sql(
        connection.execute(_NOTE, {"name": f"{applied} {known}"}).scalar_one()
    )
