"""What a worker has in hand, whatever engine woke it: the work is done, its leases are renewed, and at a stop it is given back."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import structlog

from receiver.errors import LedgerError
from receiver.ledger import claims as ledger_claims
from receiver.ledger.claims import Claimed, Claims
from receiver.worker.engine import WorkQueue

log = structlog.get_logger(__name__)

# How often in its length a lease is renewed.
RENEWALS = 3


class Leases:
    """The claims of this process, by lane; safe to share between its hands."""

    def __init__(self, claims: Claims) -> None:
        self._ledger_claims = claims
        self._claims: dict[str, list[Claimed[Any]]] = {}
        self._lock = threading.Lock()
        self._renewed = 0.0

    def take(self, queue: WorkQueue, claims: Sequence[Claimed[Any]]) -> None:
        """Take claims in hand; each is let go when it has been worked on."""
        with self._lock:
            self._claims.setdefault(queue.name, []).extend(claims)

    def work(self, queue: WorkQueue, claimed: Claimed[Any]) -> None:
        """Do one piece of work and let it go; whatever goes wrong is logged, and its lease ends by itself."""
        try:
            queue.run(claimed)
        except LedgerError as error:
            # The claim's lease ends by itself, and the row is due again.
            log.error("ledger away, work will be done again", queue=queue.name, error=str(error))  # noqa: TRY400 - the text says it, a trace would not
        except Exception:
            log.exception("work broke off", queue=queue.name)
        finally:
            with self._lock:
                self._claims[queue.name].remove(claimed)

    def count(self, queue: WorkQueue) -> int:
        """Return how many claims of a lane are in hand."""
        return len(self._claims.get(queue.name, ()))

    def all(self) -> list[Claimed[Any]]:
        """Return every claim in hand."""
        with self._lock:
            return [claimed for claims in self._claims.values() for claimed in claims]

    def renew(self) -> None:
        """Renew the leases if it is time; raise LedgerError where that cannot be done.

        To be called before anything is claimed: after a sleep of the machine our own work must not look abandoned to us.
        """
        if time.monotonic() - self._renewed > ledger_claims.LEASE / RENEWALS:
            if held := self.all():
                self._ledger_claims.renew(held)
            self._renewed = time.monotonic()

    def next_renewal(self) -> float:
        """Return the seconds until it is worth trying to renew again."""
        return ledger_claims.LEASE / RENEWALS / 4

    def release(self) -> None:
        """Give back what is still in hand: others take it over at once."""
        if held := self.all():
            log.warning("work handed back", claims=len(held))
            try:
                self._ledger_claims.release(held)
            except LedgerError as error:
                log.error("ledger away, leases end by themselves", error=str(error))  # noqa: TRY400 - as above
