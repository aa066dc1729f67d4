"""Try to decode archived files, so that a damaged one is reported while it can be replaced.

The inspection reads only the structure of a file; half of its data may be zeros. A thread of the
worker decodes archived pictures, one at a time, in the confined process that makes thumbnails. It
works at the lowest priority and only while no asset waits, so it does not delay archiving. The
ledger records the doubts; the bytes stay as they are.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from receiver.archive.thumbnails import BusyError, Thumbnails
from receiver.errors import LedgerError, MissingObjectError, StoreError, UnreadableError
from receiver.ledger.assets import Assets

log = structlog.get_logger(__name__)

# Seconds between two searches for files not tried yet, and after a fault of the archive.
EVERY, AFTER_FAULT = 5.0, 60.0
# Seconds that a worker which stops waits for a file that is being tried.
_END_TIMEOUT = 1.0


class Doubts:
    """Tries archived files."""

    def __init__(self, assets: Assets, thumbnails: Thumbnails) -> None:
        self._assets = assets
        self._thumbnails = thumbnails

    def try_next(self) -> bool:
        """Try one file; return whether there was one to try now.

        Raise LedgerError, StoreError or BusyError; then the file is tried again later.
        """
        if (asset := self._assets.next_untried()) is None:
            return False
        try:
            doubt = self._thumbnails.doubt(asset)
        except (MissingObjectError, UnreadableError) as error:
            doubt = str(error)
        except (StoreError, BusyError):
            self._assets.record_doubt(asset, None)
            raise
        if doubt:
            log.warning("archived file in doubt", ref=asset.ref, index=asset.idx, doubt=doubt)
            self._assets.record_doubt(asset, doubt)
        return True


@contextmanager
def try_periodically(doubts: Doubts) -> Iterator[None]:
    """Try archived files in a thread until the block ends."""
    stopping = threading.Event()
    thread = threading.Thread(target=_run, args=(doubts, stopping), name="doubts", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(_END_TIMEOUT)


def _run(doubts: Doubts, stopping: threading.Event) -> None:
    pause = EVERY
    while not stopping.wait(pause):
        pause = EVERY
        try:
            while not stopping.is_set() and doubts.try_next():
                pass
        except (LedgerError, StoreError, BusyError) as error:
            log.info("archived files not tried", error=str(error))
            pause = AFTER_FAULT
        except Exception:
            log.exception("trying archived files failed unexpectedly")
            pause = AFTER_FAULT
