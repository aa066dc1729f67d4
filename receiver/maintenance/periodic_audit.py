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

# Seconds from the start to the first audit, from one to the next, and between two that examine
# every job; the others examine the recent ones.
FIRST, EVERY, WHOLE_EVERY = 15.0, 600.0, 24 * 3600.0
# The pause is at least this many times as long as the audit.
MIN_PAUSE_FACTOR = 20.0


@contextmanager
def audit_periodically(audit: Callable[[bool], Audit]) -> Iterator[None]:
    """Audit the ledger now and then, in a thread, until the block ends.

    ``audit`` is called with True to examine every job, with False for the recent ones.
    """
    stopping = threading.Event()
    thread = threading.Thread(target=_run, args=(audit, stopping), name="audit", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()


def _run(audit: Callable[[bool], Audit], stopping: threading.Event) -> None:
    pause, whole_at = FIRST, 0.0
    while not stopping.wait(pause):
        began = time.monotonic()
        try:
            is_whole = began >= whole_at
            report(found := audit(is_whole))
            # After a difference the next audit is complete too. Otherwise a difference of old jobs
            # would disappear from the metrics.
            if is_whole and found.ok:
                whole_at = began + WHOLE_EVERY
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
