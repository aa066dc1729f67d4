"""The rotation of callback secrets that are kept in DATA_DIR.

A new secret signs at once, and those before it are accepted until every job that they signed is
over. Then the next rotation or the worker removes them.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from receiver.errors import ReceiverError
from receiver.ingest.kept_secrets import KeptSecrets
from receiver.ingest.tickets import fingerprint
from receiver.ledger.queries.signers import Signers

log = structlog.get_logger(__name__)

# Seconds that a secret is accepted at least after it was replaced: a submit may have signed with it
# and insert its job only later, after a retry.
ACCEPTED_FOR = 3600.0
# Seconds from the start of a worker to its first check for unneeded secrets, and between two.
EVERY = 600.0


class Rotation:
    """Changes the kept secrets. ``now`` returns seconds since the epoch.

    ``remember`` stores the current secrets in the ledger; see ``ledger.shared_settings``.
    """

    def __init__(
        self,
        kept: KeptSecrets,
        signers: Signers,
        now: Callable[[], float],
        remember: Callable[[], None],
    ) -> None:
        self._kept = kept
        self._signers = signers
        self._now = now
        self._remember = remember

    def rotate(self) -> list[str]:
        """Let a new secret sign; return the fingerprints of old ones that were removed."""
        removed = self.retire()
        self._kept.rotate()
        self._remember()
        return removed

    def remove_old(self) -> list[str]:
        """Remove every secret but the first, whatever they signed; return their fingerprints."""
        return self._remove(list(self._kept.secrets()[1:]))

    def retire(self) -> list[str]:
        """Remove the old secrets that no unfinished job needs; return their fingerprints."""
        old = self._kept.secrets()[1:]
        if not old or self._now() - self._kept.rotated_at() < ACCEPTED_FOR:
            return []
        needed = {signed.signer for signed in self._signers.unfinished()}
        if None in needed:  # any of them may have signed these
            return []
        return self._remove([one for one in old if fingerprint(one) not in needed])

    def _remove(self, secrets: list[str]) -> list[str]:
        if secrets:
            # Done first, so that the ledger knows one of the secrets that stay.
            self._remember()
            self._kept.remove(secrets)
        return [fingerprint(secret) for secret in secrets]


@contextmanager
def retire_periodically(rotation: Rotation | None) -> Iterator[None]:
    """Remove unneeded secrets now and then, in a thread, until the block ends.

    Do nothing for None: then the secrets are not kept in DATA_DIR.
    """
    stopping = threading.Event()
    if rotation is not None:
        arguments = (rotation, stopping)
        threading.Thread(target=_run, args=arguments, name="secrets", daemon=True).start()
    try:
        yield
    finally:
        stopping.set()


def _run(rotation: Rotation, stopping: threading.Event) -> None:
    while not stopping.wait(EVERY):
        try:
            if removed := rotation.retire():
                log.info("old callback secrets removed, no job needs them", fingerprints=removed)
        except ReceiverError as error:
            log.warning("old callback secrets not looked for", error=str(error))
        except Exception:
            log.exception("looking for old callback secrets failed unexpectedly")
