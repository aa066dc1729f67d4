"""Metrics of several processes: each writes its counts to files in DATA_DIR, a scrape adds them up.

A metric decides when it is created whether it is shared, so a process calls ``share`` before it
imports ``receiver.telemetry.metrics``. Commands that count nothing do not call it.
"""

import atexit
import os
import shutil
import socket
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, values
from prometheus_client.multiprocess import MultiProcessCollector

from receiver.data_dir import lock_shared, open_own, try_lock

log = structlog.get_logger(__name__)

# Read by prometheus_client: the folder of the files, both for writing and for a scrape.
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
# Bytes reserved for each file of a process: several times what all metrics with all labels need.
_SIZE = 256 * 1024
# The folder that is shared, once ``share`` has been called.
_shared: list[Path] = []
# Locks that are held until the process ends. While anyone holds one, the files are kept.
_locks: list[int] = []


def share(data_dir: Path) -> None:
    """Add up this process's metrics with those of all other processes of ``data_dir``.

    The counts start at zero when none of these processes is left: a restart of the web alone does
    not lose what the worker counted.
    """
    folder = data_dir / "metrics"
    if folder in _shared:  # in a forked process, which has inherited the lock
        reserve_space()
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = open_own(data_dir / "metrics.lock", os.O_RDWR | os.O_CREAT)
    if try_lock(lock):  # no other process is counting
        for file in folder.iterdir():
            file.unlink(missing_ok=True)
    lock_shared(lock)
    _locks.append(lock)
    _shared.append(folder)
    reserve_space()
    values.ValueClass = values.MultiProcessValue(_process_name)  # type: ignore[no-untyped-call]  # the package is only partly typed


def are_shared(data_dir: Path) -> bool:
    """Return whether any process of the service counts in this ``data_dir`` now."""
    try:
        lock = open_own(data_dir / "metrics.lock", os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(lock, "rb", buffering=0) as file:
            return not try_lock(file)
    except OSError:
        return False


def forget() -> None:
    """Remove the files of this process, which has forked those that count."""
    for folder in _shared:
        for file in folder.glob(f"*_{_process_name()}.db"):
            file.unlink()


def reserve_space() -> None:
    """Reserve the disk space of this process's files; call it, or ``share``, again after a fork.

    The files are mapped into memory. If the disk were full when they are written, the kernel would
    kill the process. So without space this process counts in a memory folder, for itself alone.
    """
    for folder in _shared:
        try:
            for kind in ("counter", "histogram", "gauge_mostrecent"):
                _create(folder / f"{kind}_{_process_name()}.db")
        except OSError as error:
            log.warning("no disk space, this process does not share its metrics", error=str(error))
            os.environ[_FOLDER] = _memory_folder()
        else:
            os.environ[_FOLDER] = str(folder)


def _create(path: Path) -> None:
    """Create a file of zeros, unless a process of the same name left one: its counts are kept.

    It gets its name when it is whole, because an empty file would make every scrape fail.
    """
    draft = path.with_suffix(".draft")
    try:
        with draft.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, _SIZE)
        if not path.exists():
            draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)


def _memory_folder() -> str:
    memory = Path("/dev/shm")  # noqa: S108 - mkdtemp creates a private folder there
    folder = mkdtemp(prefix="receiver-metrics-", dir=memory if memory.is_dir() else None)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _process_name() -> str:
    """Return host and process id: containers that share a DATA_DIR have equal process ids."""
    return f"{_host()}-{os.getpid()}"


@cache  # prometheus_client asks for the process's name before each count
def _host() -> str:
    return socket.gethostname().replace("_", "-")


def registry() -> CollectorRegistry:
    """Return what a scrape shows: the sum of all processes, or of this one if it does not share."""
    if _FOLDER not in os.environ:
        return REGISTRY
    shared = CollectorRegistry()
    MultiProcessCollector(shared)  # type: ignore[no-untyped-call]  # as above
    return shared
