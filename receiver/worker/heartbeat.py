"""A worker's heartbeat: a thread writes it to the ledger, and deletes it when the worker ends."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import structlog

from receiver.errors import LedgerError
from receiver.ledger.workers import EVERY, Worker, Workers

log = structlog.get_logger(__name__)

# Seconds that a stop waits for the last write, to a ledger that may hang.
_END_TIMEOUT = 1.0


@contextmanager
def heartbeat(
    workers: Workers, report: Callable[[], Mapping[str, object]], *, alone: bool
) -> Iterator[None]:
    """Send heartbeats during the block. ``report`` returns what they say about the worker.

    ``alone``: no other worker can be alive (SQLite).
    """
    stopping = threading.Event()
    arguments = (workers, report, alone, stopping)
    thread = threading.Thread(target=_run, args=arguments, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(_END_TIMEOUT)


def _run(
    workers: Workers,
    report: Callable[[], Mapping[str, object]],
    alone: bool,  # noqa: FBT001 - called by a thread
    stopping: threading.Event,
) -> None:
    worker, begun, pause = Worker(), False, 0.0
    while not stopping.wait(pause):
        pause = EVERY
        try:
            if not begun:
                workers.begin(worker, alone=alone)
                begun = True
            begun = workers.renew(worker, report())
        except LedgerError as error:
            log.warning("heartbeat not written", error=str(error))
        except Exception:
            log.exception("heartbeat failed unexpectedly")
    if begun:
        with suppress(LedgerError):  # then it counts as missing a little later
            workers.end(worker)
