"""Opens the ledger, and checks everything that must be right before a part is used."""

from functools import cached_property
from pathlib import Path
from typing import Self

from receiver import data_dir
from receiver.archive.stores import Store
from receiver.archive.stores.archive_url import archive_name, open_store
from receiver.errors import ConfigurationError
from receiver.ingest.kept_secrets import KeptSecrets
from receiver.ingest.tickets import Tickets
from receiver.ledger import schema
from receiver.ledger.parts import LedgerParts
from receiver.ledger.pooler import SESSIONS_NEEDED
from receiver.ledger.postgres import PostgresDatabase
from receiver.ledger.shared_settings import SharedSettings
from receiver.model import Timing
from receiver.providers.registry import LIFETIMES
from receiver.settings import Settings

# The parts with connections, here and in ``Services``.
_CLOSED = ("database", "store", "fetcher", "event_client")


class Opening(LedgerParts):
    """The ledger, the archive's store and the secrets of the settings."""

    def __init__(self, settings: Settings) -> None:
        timing = Timing(
            settings.url_lifetime,
            settings.poll_after,
            settings.poll_interval,
            settings.job_timeout,
            LIFETIMES,
        )
        super().__init__(settings.database_url, timing)
        self.settings = settings

    def open(self, *, to_look: bool = False, creates: bool = True) -> Self:
        """Prepare what every process needs: DATA_DIR and, with SQLite, a ledger of this schema.

        ``to_look`` is for read-only commands: DATA_DIR need not be writable. Without ``creates``,
        and for read-only commands, the ledger must exist. Raise ConfigurationError or LedgerError
        with the remedy.
        """
        if to_look or not creates:
            self.require_ledger()
        data_dir.make_data_dir(self.settings.data_dir)
        if not to_look:
            data_dir.require_writable(self.settings.data_dir)
            data_dir.require_own(
                self.settings.data_dir,
                self.settings.ledger_path if self.settings.embedded else None,
            )
            data_dir.close_to_others(self.settings.data_dir, self.settings.ledger_path)
        assert self.store  # noqa: S101 - reports a malformed ARCHIVE_URL before any work begins
        if self.settings.embedded:
            if self.needs_migration():
                schema.migrate(self.settings.database_url)
        else:
            self._require_sessions()
            schema.require_current(self.database)
        if not to_look:
            self._require_alike()
        if self.settings.destinations:
            # The first process that opens the ledger does this; from then on the destination gets
            # all new events.
            self.outbox.register([destination.name for destination in self.settings.destinations])
        return self

    def require_ledger(self) -> None:
        """Raise ConfigurationError if there is no embedded ledger yet; nothing is created."""
        chosen = self.settings
        if not chosen.embedded or _has_content(chosen.ledger_path):
            return
        is_default = chosen.ledger_path.parent == chosen.data_dir
        name, place = (
            ("DATA_DIR", chosen.data_dir) if is_default else ("DATABASE_URL", chosen.ledger_path)
        )
        mistake = (
            f"{name}: no ledger in {place}; set {name} to that of the service "
            "(`receiver serve` creates a ledger)"
        )
        raise ConfigurationError([mistake])

    def needs_migration(self) -> bool:
        """Return whether the embedded ledger is missing, or too old for this code."""
        has_content = _has_content(self.settings.ledger_path)
        return not has_content or schema.is_old(schema.version(self.database))

    def _require_sessions(self) -> None:
        if isinstance(self.database, PostgresDatabase) and not self.database.keeps_sessions():
            self.close()  # most commands do not need it
            raise ConfigurationError([SESSIONS_NEEDED])

    def _require_alike(self) -> None:
        try:
            self.shared_settings.require_alike()
        except ConfigurationError:
            self.close()  # most commands do not need it
            raise

    @cached_property
    def shared_settings(self) -> SharedSettings:
        """The settings that all processes of this ledger must share."""
        chosen = self.settings
        home = chosen.ledger_path.parent if chosen.embedded else None
        place = (
            "CALLBACK_SECRETS:"
            if chosen.callback_secrets
            else f"DATA_DIR: {self.kept_secrets.path}"
        )
        return SharedSettings(
            self.database,
            archive=archive_name(chosen.archive_url, home),
            fingerprints=lambda: self.tickets.fingerprints,
            secrets_are_in=place,
            now=self.now,
        )

    @cached_property
    def tickets(self) -> Tickets:
        """Signs and reads callback URLs."""
        given = [secret.get_secret_value() for secret in self.settings.callback_secrets]
        newest = None if given else self.kept_secrets.secrets
        return Tickets(given, newest, lifetime=self.settings.ticket_lifetime, now=self.now)

    @cached_property
    def kept_secrets(self) -> KeptSecrets:
        """The callback secrets that the service generates if none are set."""
        return KeptSecrets(self.settings.data_dir)

    @cached_property
    def admin_token(self) -> str:
        """The token of API and dashboard."""
        given = self.settings.admin_token
        if given:
            return given.get_secret_value()
        return data_dir.keep(self.admin_token_path)

    @property
    def admin_token_path(self) -> Path:
        """The file of the token that the service generates if none is set."""
        return self.settings.data_dir / "secrets" / "admin"

    @cached_property
    def store(self) -> Store:
        """The archive's objects."""
        chosen = self.settings
        try:
            return open_store(chosen.archive_url, chosen.s3_options())
        except ValueError as error:
            raise ConfigurationError([f"ARCHIVE_URL: {error}"]) from error

    def close(self) -> None:
        """Close what was opened."""
        for part in _CLOSED:
            if part in self.__dict__:
                self.__dict__[part].close()


def _has_content(path: Path) -> bool:
    """Return whether a file has content; an empty ledger was never used."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
