"""The claims of a worker process: they are worked on, renewed, and released at a stop."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import structlog

from receiver.errors import LedgerError
from receiver.ledger.claims import LEASE, Claimed, Claims
from receiver.worker.engine import WorkQueue

log = structlog.get_logger(__name__)

# How often a lease is renewed within its length.
RENEWALS = 3
# Seconds until work is due again that failed because the ledger was unavailable.
PAUSE = 2.0
# From this attempt on such work waits until its lease ends and counts as a crash. So a row that
# always makes the ledger fail becomes a suspect.
MOST_ATTEMPTS = 5


class Leases:
    """The claims of this process, by work queue; thread-safe."""

    def __init__(self, claims: Claims) -> None:
        self._database_claims = claims
        self._claims: dict[str, list[Claimed[Any]]] = {}
        self._interrupted: list[Claimed[Any]] = []  # the ledger was unavailable at their end
        self._lock = threading.Lock()
        self._renewed = 0.0

    def take(self, queue: WorkQueue, claims: Sequence[Claimed[Any]]) -> None:
        """Add claims; each is removed when it has been worked on."""
        with self._lock:
            self._claims.setdefault(queue.name, []).extend(claims)

    def work(self, queue: WorkQueue, claimed: Claimed[Any]) -> bool:
        """Work on one claim and remove it; errors are logged, and then its lease runs out.

        Return False if the ledger was unavailable: ``renew`` may release the claim.
        """
        try:
            queue.run(claimed)
        except LedgerError as error:
            log.error("ledger unavailable, work repeats", queue=queue.name, error=str(error))  # noqa: TRY400 - the text is enough
            if claimed.row.attempts < MOST_ATTEMPTS:
                with self._lock:
                    self._interrupted.append(claimed)
            return False
        except Exception:
            log.exception("work failed unexpectedly", queue=queue.name)
        finally:
            with self._lock:
                self._claims[queue.name].remove(claimed)
        return True

    def count(self, queue: WorkQueue) -> int:
        """Return how many claims of a work queue this process has."""
        return len(self._claims.get(queue.name, ()))

    def all(self) -> list[Claimed[Any]]:
        """Return every claim of this process."""
        with self._lock:
            return [claimed for claims in self._claims.values() for claimed in claims]

    def renew(self) -> None:
        """Renew the leases if it is time, and release interrupted work.

        Raise LedgerError if that fails. Called before anything is claimed: after a sleep of the
        machine this process must not treat its own work as abandoned.
        """
        if interrupted := self._interrupted[:]:
            self._database_claims.release(interrupted, after=PAUSE)
            with self._lock:
                del self._interrupted[: len(interrupted)]
        if time.monotonic() - self._renewed > LEASE / RENEWALS:
            if claims := self.all():
                self._database_claims.renew(claims)
            self._renewed = time.monotonic()

    def release(self) -> None:
        """Release all claims, so that other workers can take them over at once."""
        if claims := self.all() + self._interrupted:
            log.warning("claims released", claims=len(claims))
            try:
                self._database_claims.release(claims)
            except LedgerError as error:
                log.error("ledger unavailable, claims not released", error=str(error))  # noqa: TRY400 - as above
