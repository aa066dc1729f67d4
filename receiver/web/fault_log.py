"""A thread of each web process that logs faults without being asked: no worker, a full disk.

It makes only checks that write nothing: an idle service must not write to ledger and archive.
"""

import threading
from collections.abc import Callable, Mapping

import structlog

from receiver.ledger.workers import ALIVE_FOR
from receiver.web.health_checks import Check, HealthChecks

log = structlog.get_logger(__name__)

# Seconds between two checks. With ``ALIVE_FOR`` a missing worker is logged within a minute.
EVERY = 10.0


def log_faults(checks: HealthChecks, stopping: Callable[[], bool]) -> None:
    """Log faults from now on, in a thread, until ``stopping()``."""
    threading.Thread(target=_run, args=(checks, stopping), name="fault log", daemon=True).start()


def _run(checks: HealthChecks, stopping: Callable[[], bool]) -> None:
    pause, looks = threading.Event(), 0
    known: set[str] = set()
    while not stopping():
        try:
            # In the beginning a worker may still be about to start.
            is_early = looks * EVERY < ALIVE_FOR
            known = log_changes(
                known, checks.read_faults(), leave_out={"workers"} if is_early else set()
            )
        except Exception:
            log.exception("faults not looked for")
        looks += 1
        pause.wait(EVERY)


def log_changes(known: set[str], faults: Mapping[str, Check], leave_out: set[str]) -> set[str]:
    """Log the faults that are new, and the known ones that are over; return those known now."""
    found = faults.keys() - leave_out
    for name in sorted(found - known):
        log.error("fault found", part=name, detail=faults[name].detail)
    for name in sorted(known - found):
        log.info("fault is over", part=name)
    return set(found)
