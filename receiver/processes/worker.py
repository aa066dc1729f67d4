"""The worker process works until it is stopped.

On SQLite it is the only one of its DATA_DIR and takes over what a dead one left. On PostgreSQL there may be any number: each has a place of
its own in its DATA_DIR, and what a dead one had in hand comes to others when its leases end.
"""

import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from types import FrameType
from typing import IO, Any

import structlog

from receiver.errors import StoreError
from receiver.services import Services
from receiver.telemetry.bookkeeping import bookkeeping

log = structlog.get_logger(__name__)


def work(services: Services) -> None:
    """Run the lanes until the engine is stopped."""
    data, embedded = services.settings.data_dir, services.settings.embedded
    with _alone(data) if embedded else _beside_others(data) as place:
        scratch = _fresh(place)
        try:
            if embedded and (found := services.ledger.take_over()):
                log.info("claims of a dead worker taken over", claims=found)
            _greet(services)
            with bookkeeping(services.reports.audit):
                services.engine.run(services.lanes(scratch))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _alone(data: Path) -> Iterator[Path]:
    """Wait until no other worker of this DATA_DIR lives; the kernel frees the lock of a dead one. Give the folder for its files."""
    path = data / "worker.lock"
    with path.open("a", encoding="ascii") as file:
        if not _try_lock(file):
            log.info("waiting for the worker that is still running", lock=str(path))
            with _signals_end_it():
                fcntl.flock(file, fcntl.LOCK_EX)
        yield data / "scratch"


@contextmanager
def _beside_others(data: Path) -> Iterator[Path]:
    """Take the first place of this DATA_DIR that no living worker has; give the folder for its files."""
    for number in count(1):
        with (data / f"worker-{number}.lock").open("a", encoding="ascii") as file:
            if _try_lock(file):
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


def _try_lock(file: IO[Any]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_working(data_dir: Path) -> bool:
    """Say whether a worker of this DATA_DIR is alive; whoever asks need not be able to write there."""
    return any(_is_locked(path) for path in data_dir.glob("worker*.lock"))


def _is_locked(path: Path) -> bool:
    # To be written where possible: NFS gives this lock to nobody else.
    mode = "a" if os.access(path, os.W_OK) else "r"
    with path.open(mode, encoding="ascii") as file:
        return not _try_lock(file)


def _fresh(parent: Path) -> Path:
    """Return an empty folder for files on their way; what a killed worker left there goes."""
    shutil.rmtree(parent, ignore_errors=True)
    parent.mkdir(parents=True)
    return Path(mkdtemp(dir=parent))


def _greet(services: Services) -> None:
    """Say at the start what is wrong with the archive, by name; the work waits for it."""
    try:
        services.store.check()
    except StoreError as error:
        log.error("archive not usable, work waits", error=str(error))  # noqa: TRY400 - the text says it
    log.info("worker started", hands=services.settings.worker_threads, archive=services.settings.archive_url)
