"""The worker looks at the books by itself: now and then the ledger's laws are checked, and what was found becomes figures."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from receiver.errors import LedgerError
from receiver.ledger.queries.audit import Audit
from receiver.telemetry.metrics import AUDIT_SECONDS, AUDITED_AT, DIFFERENCE, LAWS_BROKEN

log = structlog.get_logger(__name__)

# Seconds from the start to the first audit, and from one to the next.
FIRST, EVERY = 15.0, 600.0
# An audit reads the whole ledger: after one of so many seconds we wait at least as many times longer.
REST = 20.0


@contextmanager
def audit_periodically(audit: Callable[[], Audit]) -> Iterator[None]:
    """Audit the ledger in a thread of its own until the block ends."""
    stopping = threading.Event()
    threading.Thread(target=_keep, args=(audit, stopping), name="bookkeeping", daemon=True).start()
    try:
        yield
    finally:
        stopping.set()


def _keep(audit: Callable[[], Audit], stopping: threading.Event) -> None:
    pause = FIRST
    while not stopping.wait(pause):
        began = time.monotonic()
        try:
            report(audit())
        except LedgerError as error:
            log.warning("ledger not audited", error=str(error))
        except Exception:
            log.exception("audit broke off")
        took = time.monotonic() - began
        AUDIT_SECONDS.set(took)
        pause = max(EVERY, REST * took)


def report(found: Audit) -> None:
    """Show what an audit found."""
    DIFFERENCE.set(found.difference)
    LAWS_BROKEN.set(len(found.broken))
    AUDITED_AT.set(time.time())
    if not found.ok:
        log.error(
            "the books do not agree, `receiver audit` says more",
            difference=found.difference,
            broken=sorted(found.broken),
        )
