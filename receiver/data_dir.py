"""What is nobody else's: the secrets the embedded default makes for itself and keeps, and the modes of everything else it writes."""

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from receiver.errors import ConfigurationError

# A file that can be locked: an open file or its descriptor.
OpenFile = IO[Any] | int

_OWNER_ONLY = 0o077
_FULL = (errno.ENOSPC, errno.EDQUOT)
# What was in force before the first ``write_for_owner_only``.
_callers_umask: list[int] = []


def write_for_owner_only() -> None:
    """Have this process, and those it starts, make files that only their owner can read: ledger, scratch, figures, bell.

    Objects of an archive directory are given a mode of their own.
    """
    before = os.umask(_OWNER_ONLY)
    if not _callers_umask:
        _callers_umask.append(before)


def callers_umask() -> int:
    """Return the umask we were started with, for programs of the caller's own; -1, as in ``subprocess``, where it is still in force."""
    return _callers_umask[0] if _callers_umask else -1


# File locks. The kernel releases a lock when its file is closed or its process dies, so no lock
# is ever stale. They hold between processes and between separately opened files of one process.


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the exclusive lock of the file ``path``, which is created if missing; wait for it."""
    with path.open("ab") as file:
        lock(file)
        yield


def lock(file: OpenFile) -> None:
    """Wait until no other process has a lock of this file, then lock it exclusively."""
    fcntl.flock(file, fcntl.LOCK_EX)


def try_lock(file: OpenFile) -> bool:
    """Lock this file exclusively without waiting; return False if another process has a lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_shared(file: OpenFile) -> None:
    """Lock this file together with others that do so; replaces an exclusive lock of ours.

    It may block briefly, while another process probes with ``try_lock``.
    """
    fcntl.flock(file, fcntl.LOCK_SH)


def make_data_dir(path: Path) -> None:
    """Make DATA_DIR for its owner only, if it is missing; one that is there keeps its mode. Raise ConfigurationError if that fails."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            [f"DATA_DIR: {error}; name a directory that can be written"]
        ) from error


def require_writable(path: Path) -> None:
    """Prove that files can be made in DATA_DIR; raise ConfigurationError if not. A file that is tried tells more than any mode."""
    try:
        TemporaryFile(dir=path).close()
    except OSError as error:
        if error.errno in _FULL:
            return  # for now: whatever needs room says so, and goes on when there is some
        why = os.strerror(error.errno or 0)
        raise ConfigurationError(
            [f"DATA_DIR: {path} cannot be written ({why}); name a directory that can be written"]
        ) from error


def keep(path: Path, prefix: str = "") -> str:
    """Return the secret kept in ``path``; make it first where there is none. Processes that start together agree on one.

    Raise ConfigurationError if the file cannot be made or read.
    """
    try:
        if not path.exists():
            _make(path, prefix + secrets.token_urlsafe(32))
        value = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            [
                f"DATA_DIR: the secret {path} cannot be kept ({error}); name a directory that can be written"
            ]
        ) from error
    if not value:
        raise ConfigurationError(
            [
                f"DATA_DIR: the secret file {path} is empty; restore it, or remove it to have a new one made"
            ]
        )
    return value


def _make(path: Path, value: str) -> None:
    """Write the file whole or not at all; whoever links first wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(  # noqa: PTH123 - a descriptor
            os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii"
        ) as file:
            file.write(value + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
        _sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Put the folder's entries on disk: a secret that signs callbacks must outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
