"""DATA_DIR: its creation, whose its files are, their modes, generated secrets, and file locks."""

import errno
import fcntl
import os
import secrets
import shlex
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import structlog

from receiver.errors import ConfigurationError

log = structlog.get_logger(__name__)

# A file that can be locked: an open file or its descriptor.
OpenFile = IO[Any] | int

_OWNER_ONLY = 0o077
_FULL = (errno.ENOSPC, errno.EDQUOT)
# Names that the service has in DATA_DIR; the archive has its own rules, and may be a symbolic link.
_FOLDERS = ("secrets", "keys", "metrics", "scratch", "thumbnails", "accepting")
_FILES = (
    *("secrets/admin", "secrets/callback", "secrets/callback.old", "keys/*.json"),
    *("metrics.lock", "worker*.lock", "deep-audit.json"),
)
# A file of this name, from a restored copy, is replaced.
_PIPE = "worker.fifo"
# Endings of the names of the ledger's files.
_OF_LEDGER = ("", "-wal", "-shm", "-journal", ".lock", ".open")
# Root, and the user that root of a host is inside a container's user namespace.
_TRUSTED_OWNERS = (0, 65534)
# The fewest characters of a generated secret that was replaced by another.
MIN_SECRET = 16
# The umask before the first ``write_for_owner_only``.
_callers_umask: list[int] = []


def write_for_owner_only() -> None:
    """Make files of this process and its children readable for their owner only.

    Objects in an archive directory get a mode of their own.
    """
    before = os.umask(_OWNER_ONLY)
    if not _callers_umask:
        _callers_umask.append(before)


def callers_umask() -> int:
    """Return the umask at the start, for programs of the caller.

    It is -1, which ``subprocess`` takes for "do not change", if it is still in force.
    """
    return _callers_umask[0] if _callers_umask else -1


# File locks. The kernel releases a lock when its file is closed or its process dies, so no lock
# is ever stale. They hold between processes and between separately opened files of one process.


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the exclusive lock of the file ``path``, which is created if missing; wait for it."""
    descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
    try:
        lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def open_own(path: Path, flags: int) -> int:
    """Open a file of the service and return its descriptor; raise OSError for a symbolic link.

    A file that is created is for its owner only.
    """
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


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
    """Create DATA_DIR for its owner only; ``close_to_others`` corrects an existing one.

    Raise ConfigurationError if that fails.
    """
    try:
        _make_folder(path)
    except OSError as error:
        raise ConfigurationError(
            [f"DATA_DIR: {error}; name a directory that can be written"]
        ) from error


def close_to_others(path: Path, ledger: Path) -> None:
    """Take the rights of all others from DATA_DIR, its secrets and the ledger's files.

    An earlier release, or a restored copy, may have left them. Files of another user are not
    changed. A DATA_DIR that is shared on purpose (sticky), or has nothing of ours, is not changed
    either.
    """
    ours = [
        *ledger.parent.glob(f"{ledger.name}*"),
        path / "secrets",
        *(path / "secrets").glob("*"),
    ]
    if any(one.exists() for one in ours) and not path.stat().st_mode & stat.S_ISVTX:
        ours.append(path)
    for one in ours:
        with suppress(OSError):
            mode = stat.S_IMODE(one.stat().st_mode)
            if mode & _OWNER_ONLY and one.stat().st_uid == os.geteuid():
                one.chmod(mode & ~_OWNER_ONLY)


def require_own(path: Path, ledger: Path | None = None) -> None:
    """Raise ConfigurationError if another user may have written what we are about to trust.

    In DATA_DIR nothing of the service is a symbolic link, all of it belongs to our user, and no
    other user may write there; DATA_DIR itself may belong to root, as a volume does. A folder where
    a file should be, a pipe and the like are mistakes too. Each comes with the command that
    corrects it. ``ledger`` is the ledger's file, if it is SQLite.
    """
    folders = [path / name for name in _FOLDERS]
    files = [one for pattern in _FILES for one in path.glob(pattern)]
    kept = [one for name in ("secrets", "keys") for one in path.glob(f"{name}/*")]
    ours = [*folders, path / _PIPE, *dict.fromkeys([*kept, *files])]
    if ledger is not None:
        files += (ledger.with_name(ledger.name + end) for end in _OF_LEDGER)
        ours += ledger.parent.glob(f"{ledger.name}*")
    mistakes = [mistake for one in ours if (mistake := _not_ours(one))]
    mistakes += [_misplaced(one, "folder") for one in folders if not _is(one, stat.S_ISDIR)]
    mistakes += [_misplaced(one, "file") for one in files if not _is(one, stat.S_ISREG)]
    if _is(path / _PIPE, stat.S_ISDIR, if_missing=False):
        mistakes.append(_misplaced(path / _PIPE, "pipe"))
    with suppress(OSError):
        owner = path.stat().st_uid
        if owner not in (os.geteuid(), *_TRUSTED_OWNERS):
            mistakes.insert(0, _of_another(path, owner))
    if mistakes:
        raise ConfigurationError([f"DATA_DIR: {mistake}" for mistake in mistakes])


def _not_ours(path: Path) -> str:
    """Return why this file is not to be trusted, and the remedy; an empty text if it is."""
    try:
        status = path.lstat()
    except OSError:
        return ""  # it has gone since, or the code that opens it reports the error
    name = shlex.quote(str(path))
    if stat.S_ISLNK(status.st_mode):
        return (
            f"{path} is a symbolic link, which is not followed; name the real place in DATA_DIR "
            "or DATABASE_URL, or put the file here: "
            f'cp -a --remove-destination "$(readlink -f {name})" {name}'
        )
    if status.st_uid != os.geteuid():
        return _of_another(path, status.st_uid)
    groups = {os.getegid(), *os.getgroups()}  # of a volume that belongs to our group (fsGroup)
    by_others = stat.S_IWOTH | (0 if status.st_gid in groups else stat.S_IWGRP)
    if status.st_mode & by_others:
        return (
            f"{path} could be written by other users; look whether it is as you left it, then: "
            f"chmod go-rwx {name}"
        )
    return ""


def _is(path: Path, kind: Callable[[int], bool], *, if_missing: bool = True) -> bool:
    """Return whether a file is of this kind. A symbolic link counts: it is another mistake."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return if_missing
    return kind(mode) or (if_missing and stat.S_ISLNK(mode))


def _misplaced(path: Path, expected: str) -> str:
    name = shlex.quote(str(path))
    return (
        f"{path} is no {expected}, which the service needs there; look what it is, then: "
        f"mv {name} {shlex.quote(f'{path}.aside')}"
    )


def _of_another(path: Path, owner: int) -> str:
    ours = os.geteuid()
    return (
        f"{path} belongs to the user {owner}, and this process runs as {ours}; run it as that user,"
        f" or give it the files: chown -hR {ours} {shlex.quote(str(path))}"
    )


def warn_of_root() -> None:
    """Log a warning if this process is root: an attack on the service would reach the machine."""
    if os.geteuid() == 0:
        log.warning("the service runs as root; run it as a user of its own (docs/deploy.md)")


def require_writable(path: Path) -> None:
    """Raise ConfigurationError if no file can be created in DATA_DIR; it tries one.

    Raise it also if a file in it is not ours: see ``require_own``.
    """
    try:
        TemporaryFile(dir=path).close()
    except PermissionError as error:
        require_own(path)  # it has the better remedy
        raise _unwritable(path, error) from error
    except OSError as error:
        # A full disk is temporary: what needs space reports it, and continues when there is some.
        if error.errno not in _FULL:
            raise _unwritable(path, error) from error
    require_own(path)


def _unwritable(path: Path, error: OSError) -> ConfigurationError:
    why = os.strerror(error.errno or 0)
    mistake = f"{path} cannot be written ({why}); name a directory that can be written"
    return ConfigurationError([f"DATA_DIR: {mistake}"])


def keep(path: Path, prefix: str = "") -> str:
    """Return the secret in the file ``path``; generate it first if there is none.

    Processes that start together get the same one. Raise ConfigurationError if the file cannot be
    created or read.
    """
    try:
        if not path.exists():
            _make(path, prefix + secrets.token_urlsafe(32))
        value = read_own(path).strip()
    except (OSError, UnicodeDecodeError) as error:
        mistake = (
            f"the secret {path} cannot be stored ({error}); name a directory that can be written"
        )
        raise ConfigurationError([f"DATA_DIR: {mistake}"]) from error
    if len(value) < MIN_SECRET:
        what = "is empty" if not value else f"has fewer than {MIN_SECRET} characters"
        mistake = f"the secret file {path} {what}; restore it, or remove it to get a new one"
        raise ConfigurationError([f"DATA_DIR: {mistake}"])
    return value


def read_own(path: Path) -> str:
    """Return the text of a file of the service; raise OSError for a symbolic link."""
    with open(open_own(path, os.O_RDONLY | os.O_NONBLOCK), encoding="ascii") as file:
        return file.read()


def replace(path: Path, value: str) -> None:
    """Replace the secret in the file ``path``: readers see the old or the new one, never a part.

    Raise OSError if that fails; then nothing has changed.
    """
    with _draft(path, value) as draft:
        draft.replace(path)
        _sync(path.parent)


def _make(path: Path, value: str) -> None:
    """Write the file completely or not at all; of several processes the first one wins."""
    _make_folder(path.parent)
    with _draft(path, value) as draft:
        with suppress(FileExistsError):
            os.link(draft, path)
        _sync(path.parent)


@contextmanager
def _draft(path: Path, value: str) -> Iterator[Path]:
    """Yield a hidden file beside ``path`` with this value, on disk; its name is temporary."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(  # noqa: PTH123 - a descriptor
            os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii"
        ) as file:
            file.write(value + "\n")
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    """Create a folder for its owner only, with its parents, and write its name to disk.

    Otherwise a power failure could take the folder with everything in it.
    """
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        with suppress(OSError):  # a parent that we may not read, where others create folders
            _sync(folder.parent)


def _sync(folder: Path) -> None:
    """Write the folder's entries to disk, so that a secret survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
