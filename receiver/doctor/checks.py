"""Checks of ledger, archive, provider and clock.

Each returns a text about what it found, or raises Trouble with the remedy.
"""

import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import requests

from receiver.archive.stores import Store
from receiver.errors import LedgerError, ProviderError, StoreError
from receiver.ledger import schema
from receiver.ledger.database import require_writable
from receiver.ledger.queries.signers import REFUSAL_REMEDY, refusal, refused
from receiver.providers.client import ProviderClient
from receiver.providers.dialect import Dialect
from receiver.services import Services
from receiver.settings import Settings

# Seconds by which this machine's clock may differ from the provider's.
CLOCK_TOLERANCE = 30.0
_TIMEOUT = 10  # seconds for one request


class Trouble(Exception):  # noqa: N818 - a finding, not an error of ours
    """A check failed; ``remedy`` says what to do."""

    def __init__(self, text: str, remedy: str) -> None:
        super().__init__(text)
        self.remedy = remedy


class NothingToCheck(Exception):  # noqa: N818 - no error at all
    """The configuration does not need this check."""


def ledger(services: Services) -> str:
    """Read and write the ledger."""
    try:
        began = time.monotonic()
        require_writable(services.database)
        took = time.monotonic() - began
        found = schema.version(services.database)
        jobs = sum(services.totals.counts().values())
    except LedgerError as error:
        raise Trouble(str(error), _LEDGER_REMEDY) from error
    kind = (
        f"SQLite at {services.settings.ledger_path}" if services.settings.embedded else "PostgreSQL"
    )
    return f"{kind}, schema {found}, {jobs} jobs, a durable write took {took * 1000:.0f} ms"


_LEDGER_REMEDY = (
    "start the database, or correct DATABASE_URL; for SQLite free disk space and let this user "
    "write to DATA_DIR"
)


def secrets(services: Services) -> str:
    """Compare the callback secrets with those that signed the tickets of unfinished jobs."""
    ours = services.tickets.fingerprints
    try:
        missing = refused(services.signers.unfinished(), ours)
    except LedgerError as error:
        raise NothingToCheck("the ledger cannot be read") from error
    if missing:
        raise Trouble(refusal(missing), REFUSAL_REMEDY)
    old = f", {', '.join(ours[1:])} accepted too" if ours[1:] else ""
    return f"{ours[0]} signs callback URLs{old}"


def archive(store: Store) -> str:
    """Write, read back and delete an object; for a bucket also return what its server lacks."""
    try:
        store.check()
        from receiver.archive.stores.s3 import S3Store  # noqa: PLC0415 - boto3 takes 20 MB of memory

        if not isinstance(store, S3Store):
            return f"{store.locate('2026')[: -len('/2026')]}, files are written, linked and synced"
        dialect, reads_back = store.probe(), store.reads_back()
    except StoreError as error:
        raise Trouble(
            str(error),
            "repair it as the text says; jobs wait, and nothing is lost until their URLs expire",
        ) from error
    if not dialect.whole:
        raise Trouble(
            f"{dialect.server} returns other bytes than were stored", "do not use this server"
        )
    verification = (
        "each object is read back after its put"
        if reads_back
        else "objects are not read back, because it rejects a wrong SHA-256"
    )
    tried = f"S3 by {dialect.server}, put, read back, hashed, deleted"
    return "; ".join([tried, verification, *dialect.lacks()])


def provider(settings: Settings, client: ProviderClient | None) -> str:
    """Request the credits of our key from GRSAI."""
    if client is None:
        if settings.openai_api_key is not None:
            raise NothingToCheck(
                "GRSAI_API_KEY is not set; OPENAI_API_KEY is, but a check would cost money"
            )
        if settings.accounts():
            raise NothingToCheck("GRSAI_API_KEY is not set; other providers are")
        raise Trouble(
            "GRSAI_API_KEY is not set: no job can be posted and no lost callback polled",
            "set GRSAI_API_KEY",
        )
    try:
        left = client.credits() or 0.0
    except ProviderError as error:
        raise Trouble(
            str(error),
            "correct GRSAI_API_KEY, or GRSAI_BASE_URL where the host is wrong or cannot be reached",
        ) from error
    if left <= 0:
        raise Trouble(
            f"{settings.grsai_base_url}: no credits are left", "buy some, or use another key"
        )
    return f"{settings.grsai_base_url} knows our key, {left:g} credits left"


def other_provider(services: Services, client: ProviderClient) -> str:
    """Try the key of another provider than GRSAI, and fetch what verifies its callbacks."""
    settings = services.settings
    provider, dialect = client.dialect.provider, client.dialect
    base_url, address = client.account.base_url, f"{provider}_base_url".upper()
    try:
        can_check = dialect.build_check(client.account) is not None
        left = client.credits()
        given = settings.verifying_keys().get(provider)
        keys = given or client.fetch_keys()
    except ProviderError as error:
        raise Trouble(
            str(error),
            f"correct {dialect.key_name}, or {address} where the host is wrong or cannot be "
            "reached; meanwhile its callbacks are read back",
        ) from error
    if left is not None and left <= 0:
        raise Trouble(f"{base_url}: no credits are left", "buy some, or use another key")
    for found in services.proofs.mismatches():
        if found.provider is provider:
            raise Trouble(str(found), found.remedy)
    known = f"{base_url} knows our key" if can_check else f"{dialect.key_name} is set, not tried"
    credits_ = "" if left is None else f", {left:g} credits left"
    return f"{known}{credits_}; {_verification(dialect, keys)}"


def _verification(dialect: Dialect, keys: tuple[str, ...]) -> str:
    """Return how callbacks are verified."""
    if dialect.has_job_secrets:
        return "callbacks are signed with a secret of each job"
    if not keys:
        return "callbacks are verified by their ticket only, and read back"
    return f"{len(keys)} {'key' if len(keys) == 1 else 'keys'} to verify callbacks"


def clock(base_url: str) -> str:
    """Compare this machine's clock with that of the provider, by which its URLs expire."""
    try:
        date = requests.head(base_url, timeout=_TIMEOUT, allow_redirects=False).headers["Date"]
        difference = (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds()
    except (requests.RequestException, KeyError, ValueError, TypeError):
        raise NothingToCheck(f"{base_url} sends no time to compare with") from None
    if abs(difference) > CLOCK_TOLERANCE:
        ahead = "ahead of" if difference > 0 else "behind"
        raise Trouble(
            f"this machine's clock is {abs(difference):.0f} s {ahead} {base_url}",
            "let NTP set it (timedatectl set-ntp true)",
        )
    return f"within {max(1, round(abs(difference)))} s of {base_url}"
