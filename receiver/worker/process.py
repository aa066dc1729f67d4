"""The worker process works until it is stopped.

On SQLite it is the only one of its DATA_DIR and takes over what a dead one left. On PostgreSQL there may be any number: each has a place of
its own in its DATA_DIR, and what a dead one had in hand comes to others when its leases end.
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
from receiver.ledger.queries import Audit
from receiver.maintenance.periodic_audit import audit_periodically
from receiver.worker.engine import Engine, WorkQueue

log = structlog.get_logger(__name__)


class WorkerProcess:
    """Works on the ledger of one DATA_DIR until its engine is stopped.

    ``queues`` returns the work queues for a scratch folder; ``take_over`` ends the leases of dead workers, and is None where other
    workers may be alive (PostgreSQL).
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
        with _alone(self._data_dir) if self._take_over else _beside_others(self._data_dir) as place:
            scratch = _fresh(place)
            try:
                if self._take_over and (found := self._take_over()):
                    log.info("claims of a dead worker taken over", claims=found)
                self._report_start()
                with audit_periodically(self._audit):
                    self._engine.run(self._queues(scratch))
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

    def _report_start(self) -> None:
        """Log that the worker starts, and the fault of an archive that cannot be used; its work waits."""
        try:
            self._check_archive()
        except StoreError as error:
            log.error("archive not usable, work waits", error=str(error))  # noqa: TRY400 - the text says it
        log.info("worker started", data_dir=str(self._data_dir))


@contextmanager
def _alone(data: Path) -> Iterator[Path]:
    """Wait until no other worker of this DATA_DIR lives; the kernel frees the lock of a dead one. Give the folder for its files."""
    path = data / "worker.lock"
    with path.open("a", encoding="ascii") as file:
        if not try_lock(file):
            log.info("waiting for the worker that is still running", lock=str(path))
            with _signals_end_it():
                lock(file)
        yield data / "scratch"


@contextmanager
def _beside_others(data: Path) -> Iterator[Path]:
    """Take the first place of this DATA_DIR that no living worker has; give the folder for its files."""
    for number in count(1):
        with (data / f"worker-{number}.lock").open("a", encoding="ascii") as file:
            if try_lock(file):
                yield data / "scratch" / str(number)
                return


@contextmanager
def _signals_end_it() -> Iterator[None]:
    """Have a signal end this process, which has nothing to drain yet: after a handler that returns, the kernel would wait on."""
    before = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def is_working(data_dir: Path) -> bool:
    """Say whether a worker of this DATA_DIR is alive; whoever asks need not be able to write there."""
    return any(_is_locked(path) for path in data_dir.glob("worker*.lock"))


def _is_locked(path: Path) -> bool:
    # To be written where possible: NFS gives this lock to nobody else.
    mode = "a" if os.access(path, os.W_OK) else "r"
    with path.open(mode, encoding="ascii") as file:
        return not try_lock(file)


def _fresh(parent: Path) -> Path:
    """Return an empty folder for files on their way; what a killed worker left there goes."""
    shutil.rmtree(parent, ignore_errors=True)
    parent.mkdir(parents=True)
    return Path(mkdtemp(dir=parent))
