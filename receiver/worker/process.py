"""The worker process.

With SQLite there is one per DATA_DIR, and it takes over the claims of a dead predecessor. With
PostgreSQL there may be any number; each has its own folder in its DATA_DIR, and the claims of a
dead worker are taken over by the others within seconds.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from types import FrameType

import structlog

from receiver.data_dir import lock, try_lock
from receiver.errors import StoreError
from receiver.ledger.queries.audit import Audit
from receiver.maintenance.periodic_audit import audit_periodically
from receiver.worker.engine import Engine, WorkQueue

log = structlog.get_logger(__name__)


class WorkerProcess:
    """Works on the ledger of one DATA_DIR until its engine is stopped.

    ``queues`` returns the work queues for a scratch folder. ``take_over`` ends the leases of dead
    workers; it is None if other workers may be alive (PostgreSQL).
    """

    def __init__(
        self,
        data_dir: Path,
        engine: Engine,
        queues: Callable[[Path], list[WorkQueue]],
        *,
        take_over: Callable[[], int] | None,
        audit: Callable[[], Audit],
        check_archive: Callable[[], None],
    ) -> None:
        self._data_dir = data_dir
        self._engine = engine
        self._queues = queues
        self._take_over = take_over
        self._audit = audit
        self._check_archive = check_archive

    def run(self) -> None:
        """Run the work queues until the engine is stopped."""
        folder = _alone if self._take_over else _beside_others
        with folder(self._data_dir) as parent:
            scratch = _empty_folder(parent)
            try:
                if self._take_over and (found := self._take_over()):
                    log.info("claims of a dead worker taken over", claims=found)
                self._report_start()
                with audit_periodically(self._audit):
                    self._engine.run(self._queues(scratch))
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

    def _report_start(self) -> None:
        """Log that the worker starts, and the fault of an unusable archive: its work waits."""
        try:
            self._check_archive()
        except StoreError as error:
            log.error("archive not usable, work waits", error=str(error))  # noqa: TRY400 - the text is enough
        log.info("worker started", data_dir=str(self._data_dir))


@contextmanager
def _alone(data: Path) -> Iterator[Path]:
    """Wait until no other worker of this DATA_DIR is alive; yield the folder for its files."""
    path = data / "worker.lock"
    with path.open("a", encoding="ascii") as file:
        if not try_lock(file):
            log.info("waiting for the worker that is still running", lock=str(path))
            with _signals_end_it():
                lock(file)
        yield data / "scratch"


@contextmanager
def _beside_others(data: Path) -> Iterator[Path]:
    """Take the first number that no other worker of this DATA_DIR has; yield its folder."""
    for number in count(1):
        with (data / f"worker-{number}.lock").open("a", encoding="ascii") as file:
            if try_lock(file):
                yield data / "scratch" / str(number)
                return


@contextmanager
def _signals_end_it() -> Iterator[None]:
    """End this process at a signal during the block: it has nothing to drain yet.

    After a handler that returns, Python would continue to wait for the lock.
    """
    before = {
        number: signal.signal(number, _exit_on_signal) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit_on_signal(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def is_working(data_dir: Path) -> bool:
    """Return whether a worker of this DATA_DIR is alive; needs no permission to write there."""
    return any(_is_locked(path) for path in data_dir.glob("worker*.lock"))


def _is_locked(path: Path) -> bool:
    # Opened for writing if possible: NFS requires that for an exclusive lock.
    mode = "a" if os.access(path, os.W_OK) else "r"
    with path.open(mode, encoding="ascii") as file:
        return not try_lock(file)


def _empty_folder(parent: Path) -> Path:
    """Return an empty folder for downloads; delete what a killed worker left there."""
    shutil.rmtree(parent, ignore_errors=True)
    parent.mkdir(parents=True)
    return Path(mkdtemp(dir=parent))
