"""A store whose objects are files in a directory, local or on a shared file system with hard links.

A file gets its name only when it is complete and on disk: it is written in ``.tmp`` or by the
caller, synced, then linked. Linking, unlike renaming, fails if the name is taken, so of several
puts at once exactly one wins.

The directory is created only once. If it existed before and is now missing or empty (an empty mount
point whose disk is gone), the archive is unavailable. A new directory would then hide that all
older objects are missing. A process remembers the ``.tmp`` that it used; processes that start later
find a note beside the archive. A directory that contains an object is an archive in any case.
"""

import errno
import hashlib
import io
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from receiver.archive.stores import require_key
from receiver.archive.stores.directory_read import ObjectFile, walk
from receiver.data_dir import lock, try_lock
from receiver.errors import MissingObjectError, ObjectDiffersError, StoreError

CHUNK = 256 * 1024  # bytes read at once
# Directories remembered as synced. A job's folder is needed twice: for a picture and the manifest.
_MOST_REMEMBERED = 1000
_FILE_MODE = 0o640
_DIRECTORY_MODE = 0o750
_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space or enlarge it",
    errno.EDQUOT: "the disk quota is used up: free some space or raise the quota",
    errno.EROFS: "the file system is mounted read-only: mount it read-write",
    errno.EACCES: "no permission: give this user the right to write there",
    errno.EPERM: "not permitted: choose a file system with hard links, "
    "and give this user the right to write there",
    errno.ENOTSUP: "the file system has no hard links or no locks: choose another one",
    errno.ENOTDIR: "a file stands where a directory should be: correct ARCHIVE_URL",
    errno.EEXIST: "a file stands where a directory should be: correct ARCHIVE_URL",
}


class DirectoryStore:
    """A store in a directory, which is created at its first use; its parent must exist."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._temporary = root / ".tmp"  # below the root, because links do not cross file systems
        # Beside the root, so that it stays when the root is gone.
        self._note = root.with_name(f".{root.name}.receiver")
        self._lock = Lock()
        self._temporary_id: tuple[int, int] | None = None  # device and inode of the .tmp in use
        self._synced = {root}  # directories whose own entry is on disk

    def put(
        self,
        key: str,
        path: Path,
        *,
        sha256: str,
        content_type: str,  # noqa: ARG002 - files have none
        hashed: os.stat_result | None = None,
        settled: bool = True,
    ) -> None:
        """Make the file an object; see Store.

        On the archive's file system it is synced and linked, not written again; from another one it
        is copied. It is hashed if it may have changed: reading it back from the disk after the sync
        would only read the page cache.
        """
        target = self._path(key)
        with self._store_errors(f"store {key} in"):
            self._prepare()
            with path.open("rb") as source:
                is_here = self._is_here_already(source)
                if not is_here:
                    self._put_copy(key, target, source, sha256)
                else:
                    if not _is_unchanged(os.fstat(source.fileno()), hashed):
                        digest = hashlib.file_digest(source, "sha256").hexdigest()
                        _require_hash(key, digest, sha256)
                    os.fchmod(source.fileno(), _FILE_MODE)
                    os.fsync(source.fileno())
                    self._make_parents(target.parent)
                    _link(path, target, sha256)
            if settled:
                self._sync_parents(target.parent)
            if is_here:  # a later write to this name must not change the object
                path.unlink()

    def _is_here_already(self, file: BinaryIO) -> bool:
        """Return whether this is a plain file on the archive's file system."""
        found = os.fstat(file.fileno())
        return stat.S_ISREG(found.st_mode) and found.st_dev == self._temporary.stat().st_dev

    def _put_copy(self, key: str, target: Path, source: BinaryIO, sha256: str) -> None:
        with self._new_file() as (descriptor, temporary):
            _require_hash(key, _copy(source, descriptor), sha256)
            os.fsync(descriptor)
            self._make_parents(target.parent)
            _link(temporary, target, sha256)

    def settle(self, key: str) -> None:
        """Sync the object's folder; see Store."""
        with self._store_errors(f"store {key} in"):
            self._sync_parents(self._path(key).parent)

    def create(self, key: str, data: bytes, *, content_type: str) -> bool:  # noqa: ARG002 - files have none
        """Link a new file with these bytes, which fails if the name is taken; see Store."""
        target = self._path(key)
        with self._store_errors(f"store {key} in"), self._new_file() as (descriptor, temporary):
            _write(descriptor, data)
            os.fsync(descriptor)
            self._make_parents(target.parent)
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
            self._sync_parents(target.parent)
        return True

    def replace(self, key: str, data: bytes, *, content_type: str) -> None:  # noqa: ARG002 - files have none
        """Replace the object by these bytes; see Store."""
        target = self._path(key)
        with self._store_errors(f"store {key} in"), self._new_file() as (descriptor, temporary):
            _write(descriptor, data)
            os.fsync(descriptor)
            self._make_parents(target.parent)
            temporary.replace(target)
            self._sync_parents(target.parent)

    def open(self, key: str, start: int = 0) -> BinaryIO:
        """Open the object's file for reading; see Store."""
        target, reading = self._path(key), partial(self._store_errors, f"read {key} from")
        with reading():
            try:
                file = io.BufferedReader(ObjectFile(target, reading), CHUNK)
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
                self._require_not_away()
                raise MissingObjectError(
                    f"cannot read {key} from the archive directory {self._root}: "
                    "there is no such object"
                ) from error
            if start:
                file.seek(start)
            return file

    def keys(self, prefix: str = "", after: str = "") -> Iterator[tuple[str, int]]:
        """Walk the files below ``prefix``; see Store. One folder per level is in memory."""
        start = self._path(prefix) if prefix else self._root
        with self._store_errors("list"):
            self._require_not_away()
            if not self._root.is_dir():
                raise StoreError(
                    f"there is no archive directory {self._root}: mount it, or correct ARCHIVE_URL"
                )
            if start.is_dir():
                yield from walk(start, f"{prefix}/" if prefix else "", after)

    def link(self, key: str, seconds: int, *, name: str) -> str | None:  # noqa: ARG002 - Store's
        """Return None: a directory has no URLs; see Store."""
        require_key(key)
        return None

    def delete(self, key: str) -> None:
        """Remove the object's file; see Store. Its folder stays: a put may be using it."""
        target = self._path(key)
        with self._store_errors(f"delete {key} from"):
            self._prepare()
            target.unlink(missing_ok=True)

    def check(self) -> None:
        """Write, link, read and remove a file; see Store."""
        with (
            self._store_errors("write a trial file to"),
            self._new_file() as (descriptor, temporary),
        ):
            _write(descriptor, b"can we write here?")
            linked = temporary.with_suffix(".linked")
            os.link(temporary, linked)
            try:
                linked.read_bytes()
            finally:
                linked.unlink()

    def locate(self, key: str) -> str:
        """Return the path of the object's file."""
        return str(self._path(key))

    def close(self) -> None:
        """Nothing is kept open."""

    def _path(self, key: str) -> Path:
        return self._root / require_key(key)

    @contextmanager
    def _store_errors(self, doing: str) -> Iterator[None]:
        """Turn an OSError into a StoreError that says what to do."""
        try:
            yield
        except OSError as error:
            remedy = _REMEDIES.get(error.errno or 0, str(error))
            raise StoreError(
                f"cannot {doing} the archive directory {self._root}: {remedy}"
            ) from error

    @contextmanager
    def _new_file(self) -> Iterator[tuple[int, Path]]:
        """Yield a new empty file in ``.tmp``, open and locked. Its name is removed afterwards."""
        self._prepare()
        descriptor, temporary = self._locked_file()
        try:
            os.fchmod(descriptor, _FILE_MODE)
            yield descriptor, temporary
        finally:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)

    def _locked_file(self) -> tuple[int, Path]:
        """Create a file in ``.tmp`` with a lock, which shows that a live process is writing it."""
        while True:
            descriptor, name = tempfile.mkstemp(dir=self._temporary)
            with ExitStack() as stack:
                stack.callback(os.close, descriptor)
                lock(descriptor)
                # Else another process removed it between its creation and the lock.
                if os.fstat(descriptor).st_nlink:
                    stack.pop_all()
                    return descriptor, Path(name)

    def _prepare(self) -> None:
        """Create the directories unless the archive is unavailable.

        At its first use in a process, also remove the files that killed processes left behind.
        """
        with self._lock:
            if self._temporary_id is not None and _identity(self._temporary) == self._temporary_id:
                return
            if not self._root.parent.is_dir():
                # Only the last directory is created. With its parents, an archive whose disk is not
                # mounted would fill the disk below the mount point.
                raise StoreError(
                    f"there is no directory {self._root.parent} to hold the archive: "
                    "create or mount it, or correct ARCHIVE_URL"
                )
            self._require_not_away()
            _make_directory(self._root)
            self._temporary.mkdir(_DIRECTORY_MODE, exist_ok=True)
            _sync_directory(self._root)
            self._leave_note()
            _sync_directory(self._root.parent)
            self._remove_leftovers()
            self._synced = {self._root}  # another disk may be mounted here now
            self._temporary_id = _identity(self._temporary)

    def _require_not_away(self) -> None:
        """Raise StoreError if the archive existed before and is not here now."""
        # The note is created after the .tmp, so it is checked first: a process that starts while
        # another one creates the archive sees both, or no note.
        was_here = self._temporary_id is not None or self._note.exists()
        if was_here and not self._is_here():
            raise StoreError(
                f"there is no archive directory {self._root} any more, or an empty one: "
                "mount it, or correct ARCHIVE_URL "
                f"(to begin a new one, remove {self._note} and restart)"
            )

    def _is_here(self) -> bool:
        """Return whether the archive is here: its known .tmp, or at least one object.

        The object counts because a remount or a restored backup changes the identity of .tmp.
        """
        found = _identity(self._temporary)
        if found is not None and self._temporary_id in (None, found):
            return True
        return self._root.is_dir() and next(walk(self._root, "", ""), None) is not None

    def _leave_note(self) -> None:
        """Create the note that an archive exists here, for processes that start later.

        If nothing may be written beside the archive, only this process knows it.
        """
        with suppress(OSError):
            # A directory, because mkdir is one atomic step.
            self._note.mkdir(0o700, exist_ok=True)

    def _remove_leftovers(self) -> None:
        """Remove files in ``.tmp`` without a lock: their writers were killed. Ignore failures."""
        for left_over in self._temporary.iterdir():
            with suppress(OSError), left_over.open("rb") as file:
                if try_lock(file):
                    left_over.unlink()

    def _make_parents(self, folder: Path) -> None:
        """Create the missing folders below the root, but not the root, which may be unmounted."""
        if folder != self._root and not folder.is_dir():
            self._make_parents(folder.parent)
            self._synced.discard(folder)  # it was removed since
            _make_directory(folder)

    def _sync_parents(self, directory: Path) -> None:
        """Sync the directory and those of its parents that this process has not synced before.

        A parent that another process has just created may not be synced yet, so it is synced too.
        """
        _sync_directory(directory)
        new, above = [], directory
        while above not in self._synced:
            new.append(above)
            above = above.parent
            _sync_directory(above)
        if len(self._synced) > _MOST_REMEMBERED:
            self._synced = {self._root}
        self._synced.update(new)


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return device and inode of a folder; None if there is no such folder."""
    try:
        found = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (found.st_dev, found.st_ino)


def _make_directory(directory: Path) -> None:
    """Create one directory with mode 0750 whatever the umask is."""
    # Another put may have just created it. If it is a file, the next step fails and says so.
    with suppress(FileExistsError):
        directory.mkdir(0o700)
        directory.chmod(_DIRECTORY_MODE)


def _is_unchanged(now: os.stat_result, before: os.stat_result | None) -> bool:
    return before is not None and (now.st_ino, now.st_size, now.st_mtime_ns) == (
        before.st_ino,
        before.st_size,
        before.st_mtime_ns,
    )


def _require_hash(key: str, found: str, sha256: str) -> None:
    if found != sha256:
        raise StoreError(
            f"the file changed while it was archived as {key}: its SHA-256 is {found}, not {sha256}"
        )


def _link(path: Path, target: Path, sha256: str) -> None:
    """Give a file its key; raise ObjectDiffersError if a file with other bytes has it."""
    try:
        os.link(path, target)
    except FileExistsError:
        with target.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise ObjectDiffersError(
                f"{target} already holds other bytes "
                f"(SHA-256 {found}, not {sha256}); the first ones stay"
            ) from None


def _copy(source: BinaryIO, descriptor: int) -> str:
    """Copy a file in chunks. Return the SHA-256 of the bytes written."""
    digest = hashlib.sha256()
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        _write(descriptor, chunk)
    return digest.hexdigest()


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
