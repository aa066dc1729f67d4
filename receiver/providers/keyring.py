"""The keys that verify callbacks: given in the settings, or fetched from the provider and kept.

Fetched keys are kept in DATA_DIR, so that a start without the provider has them. A key that is not
known yet never causes a refusal: if a callback cannot be verified, the provider is polled.
"""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from receiver import data_dir
from receiver.errors import ProviderError
from receiver.model import Provider
from receiver.providers.client import Clients

log = structlog.get_logger(__name__)

# Seconds after which keys are fetched again; fal allows 24 hours.
LIFETIME = 12 * 3600.0
# Seconds between two attempts to fetch, for example because a signature fits no key.
PAUSE = 60.0
# Seconds that a callback waits if it starts the first fetch, when there are no keys at all.
FIRST_FETCH_WAIT = 2.0


@dataclass(slots=True)
class _Kept:
    """The keys of one provider; both times are seconds since the epoch."""

    values: tuple[str, ...] = ()
    fetched_at: float = 0.0
    tried_at: float = 0.0
    is_read: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class Keyring:
    """Keys by provider. ``folder`` keeps the fetched ones; ``now`` returns seconds since the epoch.

    Threads share it. A fetch runs in a thread of its own, one at a time for each provider.
    """

    def __init__(
        self,
        clients: Clients,
        given: Mapping[Provider, tuple[str, ...]],
        folder: Path,
        now: Callable[[], float],
    ) -> None:
        self._clients = clients
        self._given = given
        self._folder = folder
        self._now = now
        self._kept: dict[Provider, _Kept] = {}

    def values(self, provider: Provider) -> tuple[str, ...]:
        """Return the keys of a provider; none if they are not known now."""
        if given := self._given.get(provider):
            return given
        kept = self._of(provider)
        if self._now() - kept.fetched_at > LIFETIME:
            self._refresh(provider, kept, wait=not kept.values)
        return kept.values

    def renewed(self, provider: Provider) -> tuple[str, ...]:
        """Return the keys after a signature fitted none of them: they may have been rotated."""
        if given := self._given.get(provider):
            return given
        kept = self._of(provider)
        self._refresh(provider, kept, wait=True)
        return kept.values

    def _of(self, provider: Provider) -> _Kept:
        kept = self._kept.setdefault(provider, _Kept())
        with kept.lock:
            if not kept.is_read:
                self._read(provider, kept)
        return kept

    def _read(self, provider: Provider, kept: _Kept) -> None:
        """Read the keys that an earlier process kept."""
        kept.is_read = True
        try:
            found = json.loads(data_dir.read_own(self._path(provider)))
            kept.values, kept.fetched_at = tuple(map(str, found["keys"])), float(found["at"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("kept keys not readable", provider=provider, error=str(error))

    def _refresh(self, provider: Provider, kept: _Kept, *, wait: bool) -> None:
        """Fetch the keys in a thread, unless that was tried a moment ago."""
        client = self._clients.get(provider)
        with kept.lock:
            if client is None or self._now() - kept.tried_at < PAUSE:
                return
            kept.tried_at = self._now()
        thread = threading.Thread(
            target=self._fetch, args=(provider, kept), name=f"keys of {provider}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # the process can start no thread now
            return
        if wait:
            thread.join(FIRST_FETCH_WAIT)

    def _fetch(self, provider: Provider, kept: _Kept) -> None:
        client = self._clients.get(provider)
        try:
            found = client.fetch_keys() if client else ()
        except ProviderError as error:
            log.warning("keys not fetched", provider=provider, error=str(error))
            return
        if not found:
            return
        kept.values, kept.fetched_at = found, self._now()
        path = self._path(provider)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            data_dir.replace(path, json.dumps({"at": kept.fetched_at, "keys": found}))
        except OSError as error:
            log.warning("keys not kept", provider=provider, error=str(error))

    def _path(self, provider: Provider) -> Path:
        return self._folder / f"{provider}.json"
