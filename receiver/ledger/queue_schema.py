"""Procrastinate's own tables, functions and triggers in our PostgreSQL: made and brought up by ``receiver migrate``.

Procrastinate ships its schema as one file and its changes as numbered ones, and leaves it to us to know which have been applied: the
name of the newest that was applied stands as a comment at its table of jobs, and behind it the newest that was known then. A change marked
``post`` breaks the release before it, so it waits until a release knows of newer ones: expand, then contract.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text

from receiver.errors import LedgerError

_FOUND = text(
    "SELECT to_regclass('procrastinate_jobs') IS NOT NULL, obj_description(to_regclass('procrastinate_jobs'), 'pg_class')"
)
# DDL takes no parameters, so PostgreSQL itself puts the name in quotes.
_NOTE = text("SELECT format('COMMENT ON TABLE procrastinate_jobs IS %L', CAST(:name AS text))")


def is_old(connection: Connection) -> bool:
    """Say whether `receiver migrate` has to be run before the installed Procrastinate can work."""
    there, note = connection.execute(_FOUND).one()
    return not there or _read(note)[0] < max(name for name in _changes() if not _contracts(name))


def bring_up(connection: Connection) -> None:
    """Make what is missing, or apply the changes since it was made; for one process at a time."""
    there, note = connection.execute(_FOUND).one()
    changes = _changes()
    if not there:
        _run(connection, _folder() / "schema.sql")
        _note(connection, changes[-1], changes[-1])
        return
    applied, known = _read(note)
    for name in _due([name for name in changes if name > applied], anew=known != changes[-1]):
        _run(connection, _folder() / "migrations" / name)
        applied = name
    _note(connection, applied, changes[-1])


def _read(note: str | None) -> tuple[str, str]:
    """Return the newest change that was applied, and the newest that was known then."""
    applied, _, known = (note or "").partition(" ")
    return applied, known or applied


def _changes() -> list[str]:
    """Return the names of all changes the installed Procrastinate knows, in their order."""
    return sorted(path.name for path in (_folder() / "migrations").glob("*.sql"))


def _folder() -> Path:
    # Found, not imported: that would take each web process 0.2 s.
    package = find_spec("procrastinate")
    if package is None or package.origin is None:
        raise LedgerError(
            "PostgreSQL needs more than is installed: pip install 'webhook-image-receiver[postgres]'"
        )
    return Path(package.origin).parent / "sql"


def _contracts(name: str) -> bool:
    return "_post_" in name


def _due(pending: list[str], *, anew: bool) -> list[str]:
    """Leave out what has to wait: what contracts behind the last change that expands, and such alone until it is run by a release ``anew``.

    Who skips a release has what contracted in it applied too, and stops the old one first.
    """
    last = max((place for place, name in enumerate(pending, 1) if not _contracts(name)), default=0)
    return pending[:last] or (pending if anew else [])


def _run(connection: Connection, script: Path) -> None:
    driver: Any = connection.connection.driver_connection
    driver.execute(
        script.read_text(encoding="utf-8")
    )  # without parameters: only so may there be several statements, and percent signs


def _note(connection: Connection, applied: str, known: str) -> None:
    connection.exec_driver_sql(
        connection.execute(_NOTE, {"name": f"{applied} {known}"}).scalar_one()
    )
