"""The worker process.

With SQLite there is one per DATA_DIR, and it takes over the claims of a dead predecessor. With
PostgreSQL there may be any number, and each has its own place in its DATA_DIR. The claims of a dead
worker are taken over by the next worker in its place, or within seconds by any other.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from threading import Thread
from types import FrameType
from typing import IO, TypeAlias

import structlog

from receiver.data_dir import lock, open_own, try_lock
from receiver.errors import StoreError
from receiver.installation import version
from receiver.ledger.queries.audit import Audit
from receiver.maintenance.doubts import Doubts, try_periodically
from receiver.maintenance.periodic_audit import audit_periodically
from receiver.maintenance.rotation import Rotation, retire_periodically
from receiver.worker.engine import Engine, WorkQueue

log = structlog.get_logger(__name__)

# The folder for a worker's files, and which workers are dead: their numbers, or None for all.
Place: TypeAlias = tuple[Path, Sequence[int | None]]


class WorkerProcess:
    """Works on the ledger of one DATA_DIR until its engine is stopped.

    ``queues`` returns the work queues for a scratch folder. ``number`` is this worker's number, or
    None if no other worker can be alive (SQLite). ``take_over`` ends the leases of the dead worker
    with a number, or of all workers (None), and returns how many there were. ``heartbeat`` sends
    heartbeats while the work queues run.
    """

    def __init__(
        self,
        data_dir: Path,
        engine: Engine,
        queues: Callable[[Path], list[WorkQueue]],
        *,
        number: int | None,
        take_over: Callable[[int | None], int],
        audit: Callable[[bool], Audit],
        check_archive: Callable[[], None],
        doubts: Doubts,
        rotation: Rotation | None,
        heartbeat: AbstractContextManager[None],
    ) -> None:
        self._data_dir = data_dir
        self._engine = engine
        self._queues = queues
        self._number = number
        self._take_over = take_over
        self._audit = audit
        self._check_archive = check_archive
        self._doubts = doubts
        self._rotation = rotation
        self._heartbeat = heartbeat

    def run(self) -> None:
        """Run the work queues until the engine is stopped."""
        with self._place() as (parent, dead):
            scratch = _empty_folder(parent)
            try:
                if found := sum(map(self._take_over, dead)):
                    log.info("claims of a dead worker taken over", claims=found)
                self._report_start()
                with (
                    self._heartbeat,
                    audit_periodically(self._audit),
                    try_periodically(self._doubts),
                    retire_periodically(self._rotation),
                ):
                    self._engine.run(self._queues(scratch))
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

    def _place(self) -> AbstractContextManager[Place]:
        if self._number is None:
            return _alone(self._data_dir)
        return _beside_others(self._data_dir, self._number)

    def _report_start(self) -> None:
        """Log that the worker starts, and the fault of an unusable archive: its work waits.

        An archive may hang for a minute. It delays neither heartbeats, polls, nor a stop.
        """
        Thread(target=self._report_archive, name="check of the archive", daemon=True).start()
        number = {} if self._number is None else {"worker": self._number}
        log.info("worker started", version=version(), data_dir=str(self._data_dir), **number)

    def _report_archive(self) -> None:
        try:
            self._check_archive()
        except StoreError as error:
            log.error("archive not usable, work waits", error=str(error))  # noqa: TRY400 - the text is enough
        except Exception:
            log.exception("archive not checked")


@contextmanager
def _alone(data: Path) -> Iterator[Place]:
    """Wait until no other worker of this DATA_DIR is alive."""
    path = data / "worker.lock"
    with _lock_file(path) as file:
        if not try_lock(file):
            log.info("waiting for the worker that is still running", lock=str(path))
            with _signals_end_it():
                lock(file)
        yield data / "scratch", [None]


@contextmanager
def _beside_others(data: Path, worker: int) -> Iterator[Place]:
    """Take the first place that no other worker of this DATA_DIR has, and note our number there.

    The worker that had it before is dead, because the kernel has released its lock of the file.
    """
    for place in count(1):
        with _lock_file(data / f"worker-{place}.lock") as file:
            if try_lock(file):
                yield data / "scratch" / str(place), _replace_number(file.fileno(), worker)
                return


def _lock_file(path: Path) -> IO[bytes]:
    """Open a lock file, which is created if missing."""
    return os.fdopen(open_own(path, os.O_RDWR | os.O_CREAT), "r+b")


def _replace_number(lock_file: int, number: int) -> list[int]:
    """Write a worker's number into its lock file; return the number that was there, if any."""
    before = os.pread(lock_file, 20, 0)
    with suppress(
        OSError
    ):  # the disk is full; other workers notice the end of this one in any case
        os.ftruncate(lock_file, 0)
        os.write(lock_file, str(number).encode())
    return [int(before)] if before.isdigit() else []


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
    mode = os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY
    with os.fdopen(open_own(path, mode | os.O_NONBLOCK), "rb", buffering=0) as file:
        return not try_lock(file)


def _empty_folder(parent: Path) -> Path:
    """Return an empty folder for downloads; delete what a killed worker left there."""
    shutil.rmtree(parent, ignore_errors=True)
    parent.mkdir(parents=True)
    return Path(mkdtemp(dir=parent))
