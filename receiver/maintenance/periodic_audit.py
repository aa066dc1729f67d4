"""The periodic audit: the worker checks the invariants of the ledger and sets metrics from it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from receiver.errors import LedgerError
from receiver.ledger.queries.audit import Audit
from receiver.telemetry.metrics import AUDIT_SECONDS, AUDITED_AT, DIFFERENCE, LAWS_BROKEN

log = structlog.get_logger(__name__)

# Seconds from the start to the first audit, and from one audit to the next.
FIRST, EVERY = 15.0, 600.0
# An audit reads the whole ledger: the pause is at least this many times as long as the audit.
MIN_PAUSE_FACTOR = 20.0


@contextmanager
def audit_periodically(audit: Callable[[], Audit]) -> Iterator[None]:
    """Audit the ledger now and then, in a thread, until the block ends."""
    stopping = threading.Event()
    thread = threading.Thread(target=_run, args=(audit, stopping), name="audit", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()


def _run(audit: Callable[[], Audit], stopping: threading.Event) -> None:
    pause = FIRST
    while not stopping.wait(pause):
        began = time.monotonic()
        try:
            report(audit())
        except LedgerError as error:
            log.warning("ledger not audited", error=str(error))
        except Exception:
            log.exception("audit failed unexpectedly")
        seconds = time.monotonic() - began
        AUDIT_SECONDS.set(seconds)
        pause = max(EVERY, MIN_PAUSE_FACTOR * seconds)


def report(found: Audit) -> None:
    """Set the metrics from an audit, and log broken invariants."""
    DIFFERENCE.set(found.difference)
    LAWS_BROKEN.set(len(found.broken))
    AUDITED_AT.set(time.time())
    if not found.ok:
        log.error(
            "audit failed, `receiver audit` shows details",
            difference=found.difference,
            broken=sorted(found.broken),
        )
