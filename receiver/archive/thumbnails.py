"""Thumbnails and previews for the dashboard: a confined process makes them; a folder keeps them.

They must not slow down callbacks or archiving: only a few are made at once and only a few requests
wait; all others get BusyError.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import structlog

from receiver.archive.stores import Store, verify
from receiver.archive.thumbnail_process import TOO_LARGE
from receiver.data_dir import open_own, try_lock
from receiver.errors import ReceiverError, StoreError
from receiver.ledger.rows import Asset

log = structlog.get_logger(__name__)

# How many are made at once, by all processes that use the folder, and how many more may wait in
# one. Each request holds one of the 16 threads of the web server.
MAX_RUNNING, MAX_WAITING = 2, 4
# Seconds to wait for a free place, and to make one thumbnail. The process has limits of its own.
WAIT_TIMEOUT, MAKE_TIMEOUT = 5.0, 20.0
# Bytes: the largest original that gets a thumbnail, and all thumbnails together.
MAX_ORIGINAL_SIZE, MAX_CACHE_SIZE = 100 * 1024 * 1024, 256 * 1024 * 1024
# Pixels on the longer side of a thumbnail, and of a preview, which nearly fills a screen.
THUMBNAIL, PREVIEW = 512, 1600
# Pixels of the largest original. The process that reads it has the same limit.
MAX_PIXELS = 64_000_000
# A file is in doubt if it has at least this many zero bytes in a row, and an eighth of its bytes.
MIN_ZEROS, _ZERO_BLOCK = 4096, 1024
_UNCOMPRESSED = "image/bmp"  # black is zero
# How many thumbnails are made between two checks of the folder's size.
_EVICT_EVERY = 100
# Seconds between two tries to get a place.
_BETWEEN_TRIES = 0.05
_PROGRAM = Path(__file__).with_name("thumbnail_process.py")


class BusyError(ReceiverError):
    """Too many thumbnails are being made; the client should ask again soon."""


class Thumbnails:
    """Makes and keeps thumbnails and previews (WebP) of archived pictures."""

    def __init__(self, store: Store, folder: Path, max_cache_size: int = MAX_CACHE_SIZE) -> None:
        self._store = store
        self._folder = folder
        self._max_cache_size = max_cache_size
        self._running = threading.Semaphore(MAX_RUNNING)
        self._admitted = threading.Semaphore(MAX_RUNNING + MAX_WAITING)
        self._made = 0

    def get(self, asset: Asset, side: int = THUMBNAIL) -> bytes | None:
        """Return an archived picture in a size that fits ``side`` pixels, or None if it has none.

        Raise BusyError or StoreError.
        """
        path = self._path(asset, side)
        if (known := _read(path)) is None:
            with self._slot():
                if (known := _read(path)) is None:  # another request may have made it meanwhile
                    known = self._make(asset, side)
                    self._keep(path, known)
        return known or None

    def _path(self, asset: Asset, side: int = THUMBNAIL) -> Path:
        # Named by content, so that equal pictures share one. The 1 is the version of the settings
        # with which thumbnails are made.
        name = str(asset.sha256)
        kind = "1" if side == THUMBNAIL else f"{side}.1"
        return self._folder / name[:2] / f"{name}.{kind}.webp"

    @contextmanager
    def _slot(self) -> Iterator[None]:
        if not self._admitted.acquire(blocking=False):
            raise BusyError("many thumbnails are being made")
        try:
            if not self._running.acquire(timeout=WAIT_TIMEOUT):
                raise BusyError("thumbnails take long")
            try:
                with self._place():
                    yield
            finally:
                self._running.release()
        finally:
            self._admitted.release()

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Hold one of the places of all processes: a lock, which ends with the process too."""
        until = time.monotonic() + WAIT_TIMEOUT
        with ExitStack() as files:
            with self._disk_faults():
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                paths = [self._folder / f"place-{number}.lock" for number in range(MAX_RUNNING)]
                places = [open_own(path, os.O_RDWR | os.O_CREAT) for path in paths]
                for place in places:
                    files.callback(os.close, place)
            while not any(map(try_lock, places)):
                if time.monotonic() > until:
                    raise BusyError("thumbnails take long")
                time.sleep(_BETWEEN_TRIES)
            yield

    @contextmanager
    def _disk_faults(self) -> Iterator[None]:
        """Raise StoreError if the disk fails; that is not cached."""
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"no thumbnail can be made in {self._folder}: {error.strerror}"
            ) from error

    def doubt(self, asset: Asset) -> str:
        """Return why an archived file may be damaged, or "" if nothing says so.

        A picture is decoded at the lowest priority; the thumbnail that comes of it is kept. Raise
        BusyError, or what ``verify`` raises.
        """
        with self._slot(), self._scratch_file() as original:
            verify(self._store, str(asset.key), lambda source: _copy(source, original))
            zeros = _longest_zeros(original) if asset.content_type != _UNCOMPRESSED else 0
            if zeros >= max(MIN_ZEROS, (asset.size or 0) // 8):
                return f"{zeros} bytes of it, one after another, are zero"
            if not _has_thumbnail(asset):
                return ""
            original.seek(0)
            made = self._decode(original, asset, THUMBNAIL, "idle")
            self._keep(self._path(asset), made or b"")
            return "it cannot be decoded" if made == b"" else ""

    def _make(self, asset: Asset, side: int) -> bytes:
        """Return the thumbnail's bytes, or none if it cannot be shown, which is cached too."""
        if not _has_thumbnail(asset):
            return b""
        with self._scratch_file() as original:
            with self._store.open(str(asset.key)) as source:
                _copy(source, original)
            return self._decode(original, asset, side) or b""

    def _decode(self, original: BinaryIO, asset: Asset, side: int, *options: str) -> bytes | None:
        with self._scratch_file() as result:
            return _run_decoder(original, result, asset, (str(side), *options))

    @contextmanager
    def _scratch_file(self) -> Iterator[BinaryIO]:
        """Yield a file without a name, in the folder of thumbnails: /tmp may be in memory."""
        with self._disk_faults():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder) as file:
                yield file

    def _keep(self, path: Path, data: bytes) -> None:
        """Cache a thumbnail, completely or not at all. A full disk is only logged."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
            draft.write_bytes(data)
            draft.replace(path)
        except OSError as error:
            log.warning("thumbnail not cached", error=str(error))
        self._made += 1
        if self._made % _EVICT_EVERY == 1:
            self.evict()

    def evict(self) -> None:
        """Remove the least recently used thumbnails until a tenth of the space is free.

        Several processes may do this at once.
        """
        with suppress(OSError):
            kept = sorted(
                (found.st_mtime, found.st_size, path) for path, found in _files(self._folder)
            )
            excess = sum(size for _, size, _ in kept) - self._max_cache_size
            to_free = excess + self._max_cache_size // 10 if excess > 0 else 0
            for _, size, path in kept:
                if to_free <= 0:
                    break
                path.unlink(missing_ok=True)
                to_free -= size


def _has_thumbnail(asset: Asset) -> bool:
    return (
        asset.key is not None
        and (asset.size or 0) <= MAX_ORIGINAL_SIZE
        and (asset.width or 0) * (asset.height or 0) <= MAX_PIXELS
        and str(asset.content_type).startswith("image/")
    )


def _copy(source: BinaryIO, target: BinaryIO) -> None:
    """Copy a file over another one, and go back to its beginning."""
    target.seek(0)
    target.truncate()
    shutil.copyfileobj(source, target)
    target.seek(0)


def _longest_zeros(file: BinaryIO) -> int:
    """Return the bytes of the longest run of zeros, in whole blocks: no compressed data has one."""
    longest = run = 0
    while block := file.read(_ZERO_BLOCK):
        run = run + len(block) if block.count(0) == len(block) else 0
        longest = max(longest, run)
    return longest


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.glob("*/*"):
        with suppress(FileNotFoundError):  # another process evicted it
            yield path, path.stat()


def _read(path: Path) -> bytes | None:
    """Return a cached thumbnail and note its use, or None if it is not cached."""
    with suppress(OSError):
        data = path.read_bytes()
        os.utime(path)
        return data
    return None


def _run_decoder(
    original: BinaryIO, result: BinaryIO, asset: Asset, arguments: Sequence[str]
) -> bytes | None:
    """Run the confined process and return the thumbnail, or b"" if it made none.

    Return None if the picture does not fit into its memory.

    The process writes to a file, because a limit on the file's size applies to it; a pipe has none.
    """
    try:
        command = [sys.executable, "-I", "-B", str(_PROGRAM), *arguments]
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
        # Its CPU time is limited to less than this, so it got little of it: the machine is busy.
        raise BusyError("a thumbnail takes long") from error
    except subprocess.SubprocessError as error:
        if isinstance(error, subprocess.CalledProcessError) and error.returncode == TOO_LARGE:
            return None
        log.warning(
            "no thumbnail can be made", ref=asset.ref, index=asset.idx, error=type(error).__name__
        )
        return b""
    result.seek(0)
    return result.read()
