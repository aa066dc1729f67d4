"""Saving archived files as files of the caller: verified, whole or not at all, never over another.

Names consist of a ref and the last part of a key, so they are safe whatever a provider sent.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import file_digest, sha256
from pathlib import Path
from secrets import token_hex
from typing import IO, BinaryIO

from receiver import data_dir
from receiver.errors import ReceiverError

_BLOCK = 1024 * 1024
# A file system without hard links says one of these.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)

Opener = Callable[[], BinaryIO]


def file_name(ref: str, key: str) -> str:
    """Return the name of an archived file outside the archive, such as ``01J…-0.png``."""
    return f"{ref}-{key.rpartition('/')[2]}"


def save(source: Opener, digest: str, target: Path, *, overwrite: bool = False) -> bool:
    """Save a file as ``target``; return False if it is there already, with the same SHA-256.

    ``digest`` is its SHA-256. The file appears whole or not at all. Raise ReceiverError if another
    file has the name, unless it may be overwritten; if the bytes are damaged; or if they cannot be
    written. Raise StoreError if the archive is unavailable.
    """
    try:
        if _is_same(target, digest):
            return False
        if not overwrite and os.path.lexists(target):
            raise _taken(target)
        with _new_file(target) as (file, temporary):
            copy(source, digest, file)
            _settle(file)
            _give_name(temporary, target, overwrite=overwrite)
    except OSError as error:
        raise ReceiverError(f"cannot write {target}: {error.strerror or error}") from error
    return True


def copy(source: Opener, digest: str, target: IO[bytes]) -> None:
    """Copy an archived file; raise ReceiverError if its SHA-256 is another one in the end."""
    found = sha256()
    with source() as file:
        while block := file.read(_BLOCK):
            found.update(block)
            target.write(block)
    if found.hexdigest() != digest:
        raise ReceiverError(
            f"the archived file is damaged: its SHA-256 is {found.hexdigest()} instead of {digest}"
        )


def make_folder(folder: Path) -> None:
    """Create a folder for files unless it exists; raise ReceiverError if none can be written."""
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            if (mask := data_dir.callers_umask()) >= 0:
                path.chmod(0o777 & ~mask)
        with _new_file(folder / "trial"):
            pass
    except OSError as error:
        raise ReceiverError(f"cannot write into {folder}: {error.strerror or error}") from error


def _is_same(target: Path, digest: str) -> bool:
    if not target.is_file():
        return False
    with target.open("rb") as file:
        return file_digest(file, "sha256").hexdigest() == digest


def _taken(target: Path) -> ReceiverError:
    return ReceiverError(
        f"{target} exists and is another file, so nothing was written: move it, name another "
        "target, or allow it to be overwritten"
    )


@contextmanager
def _new_file(target: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """Open a hidden file beside the target; it is gone at the end if it did not get its name."""
    path = target.with_name(f".{token_hex(8)}.part")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file, path
    finally:
        path.unlink(missing_ok=True)


def _settle(file: IO[bytes]) -> None:
    """Make the bytes durable, with the mode that the caller's other files have."""
    file.flush()
    if (mask := data_dir.callers_umask()) >= 0:
        os.fchmod(file.fileno(), 0o666 & ~mask)
    os.fsync(file.fileno())


def _give_name(temporary: Path, target: Path, *, overwrite: bool) -> None:
    if overwrite:
        temporary.replace(target)
        return
    try:
        try:
            os.link(temporary, target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with target.open("xb"):  # without hard links the name is reserved first
                pass
            temporary.replace(target)
    except FileExistsError as error:
        raise _taken(target) from error
