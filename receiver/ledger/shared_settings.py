"""Settings that all processes of a ledger must share; the ledger remembers and compares them.

The settings are the archive and the callback secrets, which are stored as fingerprints. Machines
agree if they have one secret in common, so that one machine after the other can be given a new one.
``receiver adopt`` changes what is remembered. A ledger that was moved remembers its new place.
"""

import json
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import structlog
from sqlalchemy import Connection, delete, insert, select

from receiver.errors import ConfigurationError, LedgerError
from receiver.ledger.database import Database
from receiver.ledger.tables import identity

log = structlog.get_logger(__name__)


class Shared(StrEnum):
    """What `receiver adopt` can change; each is a row in the ledger."""

    ARCHIVE = "archive"
    SECRETS = "secrets"
    LEDGER = "ledger"  # where it was moved to


# The ledger's id has the name "ledger".
_ROWS = {Shared.ARCHIVE: "archive", Shared.SECRETS: "callback_secrets", Shared.LEDGER: "moved_to"}


@dataclass(frozen=True, slots=True)
class Remembered:
    """Values that a process had, its host, and when it had them (seconds since the epoch)."""

    values: tuple[str, ...]
    host: str
    at: float

    def __str__(self) -> str:
        """Return the values for a message."""
        day = datetime.fromtimestamp(self.at, UTC).strftime("%Y-%m-%d %H:%M UTC")
        return f"{', '.join(self.values)} (by {self.host}, {day})"


class SharedSettings:
    """The settings of this process, to be compared with what the ledger remembers.

    ``archive`` names the archive, or is "" if it is not known now. ``fingerprints`` returns the
    fingerprints of the callback secrets. ``secrets_are_in`` names the place where the secrets are
    set. ``now`` returns seconds since the epoch.
    """

    def __init__(
        self,
        database: Database,
        *,
        archive: str,
        fingerprints: Callable[[], Sequence[str]],
        secrets_are_in: str,
        now: Callable[[], float],
    ) -> None:
        self._database = database
        self._archive = archive
        self._fingerprints = fingerprints
        self._secrets_are_in = secrets_are_in
        self._now = now

    def require_alike(self) -> None:
        """Remember the settings of this process.

        Raise ConfigurationError if they differ from those of others, or the ledger was moved.
        """
        known = self._database.read(_read)
        if mistakes := self._mistakes(known):
            raise ConfigurationError(mistakes)
        try:
            for what, values in self._ours().items():
                if what not in known or set(known[what].values) != set(values):
                    self._remember(what, values)
        except LedgerError as error:  # a full disk: it is remembered at a later start
            log.warning("shared settings not remembered", error=str(error))

    def adopt(self, what: Shared) -> Remembered | None:
        """Replace what is remembered by the setting of this process; return what it was."""
        known = self._database.read(_read).get(what)
        if what is Shared.LEDGER:
            self._database.write(lambda connection: _forget(connection, what))
        else:
            self._remember(what, self._ours()[what])
        return known

    def ours(self, what: Shared) -> str:
        """Return the setting of this process, for display."""
        return ", ".join(self._ours().get(what, ()))

    def remember_secrets(self) -> None:
        """Remember the current callback secrets, after a rotation and before a removal."""
        self._remember(Shared.SECRETS, self._ours()[Shared.SECRETS])

    def _ours(self) -> dict[Shared, tuple[str, ...]]:
        archive = {Shared.ARCHIVE: (self._archive,)} if self._archive else {}
        return {**archive, Shared.SECRETS: tuple(self._fingerprints())}

    def _remember(self, what: Shared, values: tuple[str, ...]) -> None:
        found = Remembered(values, socket.gethostname(), self._now())
        self._database.write(lambda connection: _write(connection, what, found))

    def _mistakes(self, known: dict[Shared, Remembered]) -> list[str]:
        ours, found = self._ours(), []
        if moved := known.get(Shared.LEDGER):
            found.append(
                f"DATABASE_URL: this ledger was moved to {moved}: the service works there; set "
                "DATABASE_URL to that one (to use this ledger again: `receiver adopt ledger`)"
            )
        theirs = known.get(Shared.ARCHIVE)
        if theirs and theirs.values != ours.get(Shared.ARCHIVE, theirs.values):
            found.append(
                f"ARCHIVE_URL: the archive of this ledger is {theirs}, not {self._archive}; set "
                "the same on every machine (if it was moved, with all its objects: "
                "`receiver adopt archive`)"
            )
        theirs = known.get(Shared.SECRETS)
        if theirs and not set(theirs.values) & set(ours[Shared.SECRETS]):
            found.append(
                f"{self._secrets_are_in} has {', '.join(ours[Shared.SECRETS])}, the other "
                f"processes of this ledger have {theirs}: they would refuse each other's "
                "callbacks; use the same on every machine, in a rotation both (if the others are "
                "lost: `receiver adopt secrets`)"
            )
        return found


def mark_moved(database: Database, to: str, now: float) -> None:
    """Remember that this ledger was moved to another one; no service starts on it any more."""
    found = Remembered((to,), socket.gethostname(), now)
    database.write(lambda connection: _write(connection, Shared.LEDGER, found))


def _read(connection: Connection) -> dict[Shared, Remembered]:
    rows = {
        row.name: json.loads(row.value)
        for row in connection.execute(
            select(identity.c.name, identity.c.value).where(identity.c.name.in_(_ROWS.values()))
        )
    }
    return {
        what: Remembered(tuple(rows[name]["values"]), rows[name]["host"], rows[name]["at"])
        for what, name in _ROWS.items()
        if name in rows
    }


def _write(connection: Connection, what: Shared, found: Remembered) -> None:
    _forget(connection, what)
    value = json.dumps({"values": found.values, "host": found.host, "at": found.at})
    connection.execute(insert(identity).values(name=_ROWS[what], value=value))


def _forget(connection: Connection, what: Shared) -> None:
    connection.execute(delete(identity).where(identity.c.name == _ROWS[what]))
