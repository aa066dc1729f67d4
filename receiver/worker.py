"""The worker process: the only one of its DATA_DIR, it takes over what a dead one left and works until it is stopped."""

import fcntl
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from types import FrameType
from typing import TextIO

import structlog

from receiver.errors import StoreError
from receiver.services import Services

log = structlog.get_logger(__name__)


def work(services: Services) -> None:
    """Run the lanes until the engine is stopped."""
    data = services.settings.data_dir
    with _alone(data / "worker.lock"):
        scratch = _fresh(data / "scratch")
        try:
            if services.settings.embedded and (found := services.ledger.take_over()):
                log.info("claims of a dead worker taken over", claims=found)
            _greet(services)
            services.engine.run(services.lanes(scratch))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other worker of this DATA_DIR lives; the kernel frees the lock of a dead one."""
    with path.open("a", encoding="ascii") as file:
        if not _try_lock(file):
            log.info("waiting for the worker that is still running", lock=str(path))
            with _signals_end_it():
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


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


def _try_lock(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_working(data_dir: Path) -> bool:
    """Say whether a worker of this DATA_DIR is alive."""
    path = data_dir / "worker.lock"
    if not path.exists():
        return False
    with path.open("a", encoding="ascii") as file:
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
