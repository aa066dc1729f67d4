"""Small pictures for the pages: made on demand by a confined process, kept in a folder of bounded size.

Nothing here is in the way of callbacks or of the archive: few are made at a time, few wait, everybody else is told to come again.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import structlog

from receiver.archive.stores import Store
from receiver.errors import ReceiverError, StoreError
from receiver.ledger.rows import Asset

log = structlog.get_logger(__name__)

# Made side by side in one process of ours, and how many more may wait for their turn; each holds one of 16 threads.
MAX_RUNNING, MAX_WAITING = 2, 4
# Seconds one waits for its turn, and one may take; the process itself has its limits too.
WAIT_TIMEOUT, MAKE_TIMEOUT = 5.0, 20.0
# Bytes: of an original that is worth the trouble, and of all thumbnails together.
MAX_ORIGINAL_SIZE, MAX_CACHE_SIZE = 100 * 1024 * 1024, 256 * 1024 * 1024
# Thumbnails made between two looks at the folder's size.
_EVICT_EVERY = 100
_PROGRAM = Path(__file__).with_name("thumbnail_process.py")


class BusyError(ReceiverError):
    """Too many thumbnails are being made: ask again in a moment."""


class Thumbnails:
    """Makes and keeps thumbnails (WebP) of archived pictures."""

    def __init__(self, store: Store, folder: Path, max_cache_size: int = MAX_CACHE_SIZE) -> None:
        self._store = store
        self._folder = folder
        self._max_cache_size = max_cache_size
        self._running = threading.Semaphore(MAX_RUNNING)
        self._admitted = threading.Semaphore(MAX_RUNNING + MAX_WAITING)
        self._made = 0

    def get(self, asset: Asset) -> bytes | None:
        """Return the thumbnail of an archived picture, None where it has none; raise BusyError or StoreError."""
        path = self._path(asset)
        if (known := _read(path)) is None:
            with self._slot():
                if (known := _read(path)) is None:  # somebody else may have made it meanwhile
                    known = self._make(asset)
                    self._keep(path, known)
        return known or None

    def _path(self, asset: Asset) -> Path:
        # By content: the same key never holds other bytes, and equal pictures share one. The ending is the recipe's number.
        name = str(asset.sha256)
        return self._folder / name[:2] / f"{name}.1.webp"

    @contextmanager
    def _slot(self) -> Iterator[None]:
        if not self._admitted.acquire(blocking=False):
            raise BusyError("many thumbnails are being made")
        try:
            if not self._running.acquire(timeout=WAIT_TIMEOUT):
                raise BusyError("thumbnails take long")
            try:
                yield
            finally:
                self._running.release()
        finally:
            self._admitted.release()

    def _make(self, asset: Asset) -> bytes:
        """Return the thumbnail's bytes, none where the picture cannot be shown; that is remembered like a picture."""
        if (
            asset.key is None
            or (asset.size or 0) > MAX_ORIGINAL_SIZE
            or not str(asset.content_type).startswith("image/")
        ):
            return b""
        with self._scratch_file() as original, self._scratch_file() as result:
            with self._store.open(asset.key) as source:
                shutil.copyfileobj(source, original)
            original.seek(0)
            return _run_decoder(original, result, asset)

    @contextmanager
    def _scratch_file(self) -> Iterator[BinaryIO]:
        """Give a file without a name, beside the thumbnails: /tmp is memory in some containers. A full disk is nothing to remember."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder) as file:
                yield file
        except OSError as error:
            raise StoreError(
                f"no thumbnail can be made in {self._folder}: {error.strerror}"
            ) from error

    def _keep(self, path: Path, data: bytes) -> None:
        """Put a thumbnail where the next one who asks finds it, whole or not at all; a full disk only makes us slow."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
            draft.write_bytes(data)
            draft.replace(path)
        except OSError as error:
            log.warning("thumbnail not kept", error=str(error))
        self._made += 1
        if self._made % _EVICT_EVERY == 1:
            self.evict()

    def evict(self) -> None:
        """Remove the thumbnails nobody asked for the longest, until a tenth of the room is free; harmless beside other processes."""
        with suppress(OSError):
            kept = sorted(
                (found.st_mtime, found.st_size, path) for path, found in _files(self._folder)
            )
            room = sum(size for _, size, _ in kept) - self._max_cache_size
            goal = room + self._max_cache_size // 10 if room > 0 else 0
            for _, size, path in kept:
                if goal <= 0:
                    break
                path.unlink(missing_ok=True)
                goal -= size


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.glob("*/*"):
        with suppress(FileNotFoundError):  # another process evicted it
            yield path, path.stat()


def _read(path: Path) -> bytes | None:
    """Return a kept thumbnail, and note that somebody wanted it."""
    with suppress(OSError):
        data = path.read_bytes()
        os.utime(path)
        return data
    return None


def _run_decoder(original: BinaryIO, result: BinaryIO, asset: Asset) -> bytes:
    """Have the confined process make it; whatever becomes of that process, we go on.

    It writes into a file, whose size it cannot exceed; a pipe would be read to its end, wherever that is.
    """
    try:
        command = [sys.executable, "-I", "-B", str(_PROGRAM)]
        subprocess.run(
            command,
            stdin=original,
            stdout=result,
            stderr=subprocess.DEVNULL,
            timeout=MAKE_TIMEOUT,
            check=True,
            env={},
            cwd="/",
        )
    except subprocess.TimeoutExpired as error:
        raise BusyError(
            "a thumbnail takes long"
        ) from error  # it used little of its own time, so the machine is busy
    except subprocess.SubprocessError as error:
        log.warning(
            "no thumbnail can be made", ref=asset.ref, index=asset.idx, error=type(error).__name__
        )
        return b""
    result.seek(0)
    return result.read()
