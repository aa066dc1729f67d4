"""The interface of a store, the rules for keys, and reading an object to verify it.

A store is a directory or a bucket of S3-compatible storage. It gives two promises: when a put
returns, the bytes are durable and verified; and the first bytes stored under a key stay.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from receiver.errors import MissingObjectError, StoreError, UnreadableError

T = TypeVar("T")

# No part of a key starts with a dot. So a key cannot leave the archive (".."), and the directory
# store has room for hidden files of its own.
_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_KEY = re.compile(rf"{_NAME}(?:/{_NAME})*")
_LONGEST_NAME = 255  # of a file on Linux
_LONGEST_KEY = 500  # S3 allows 1,024 bytes, and a prefix comes before it


class Store(Protocol):
    """A place for objects. Many threads and processes may use it at once.

    A key is a path of letters, digits, ``.``, ``_`` and ``-`` such as ``2026/07/01/01J…/0.png``;
    anything else raises ValueError. All other errors are StoreErrors whose text names the place
    and what to do.
    """

    def put(
        self,
        key: str,
        path: Path,
        *,
        sha256: str,
        content_type: str,
        hashed: os.stat_result | None = None,
        settled: bool = True,
    ) -> None:
        """Store the file under the key. On return it is durable and its SHA-256 (hex) was checked.

        The file itself may become the object, so its path may be gone afterwards. ``hashed`` is its
        status when its SHA-256 was computed: a file that has not changed since need not be hashed
        again. If the same bytes are there already, this succeeds: an earlier put was not recorded.
        If other bytes are there, they stay, and ObjectDiffersError is raised.

        If not ``settled``, a power loss may still remove the name until ``settle``, or a ``create``
        in the same folder, has returned. So two objects of a folder wait for the disk only once.
        """

    def settle(self, key: str) -> None:
        """Make the name of an object durable that was put without being settled."""

    def create(self, key: str, data: bytes, *, content_type: str) -> bool:
        """Store these bytes unless the key is taken. On return they are durable.

        Return False, with nothing stored, if it is taken or if the store cannot make sure that of
        two writers only one succeeds.
        """

    def replace(self, key: str, data: bytes, *, content_type: str) -> None:
        """Store these bytes under the key in place of what is there. On return they are durable.

        Readers see either the old or the new bytes, never a mixture.
        """

    def open(self, key: str, start: int = 0) -> BinaryIO:
        """Return the object's bytes from offset ``start`` on, as a stream that the caller closes.

        Raise MissingObjectError if there is no such object.
        """

    def link(self, key: str, seconds: int, *, name: str) -> str | None:
        """Return a URL that serves the object without a token for ``seconds``, as a file ``name``.

        Return None if the store has no such URLs.
        """

    def keys(self, prefix: str = "", after: str = "") -> Iterator[tuple[str, int]]:
        """Yield name and size in bytes of the objects below the folder ``prefix``, sorted by name.

        To continue an interrupted listing, pass its last name as ``after``. Names with a leading
        dot are left out. Files that other programs put there are included, so a name need not be a
        valid key. Raise StoreError, also if there is no archive at all.
        """

    def delete(self, key: str) -> None:
        """Delete an object, if there is one. Only files in the quarantine are ever deleted."""

    def check(self) -> None:
        """Raise StoreError that says what to do if the store cannot be used.

        Many calls write little: a bucket's trial object is written once per process, and after a
        failed write; otherwise it is only read.
        """

    def locate(self, key: str) -> str:
        """Return where the object is, for display: a file's path or an ``s3://`` URL."""

    def close(self) -> None:
        """Close all connections. The store opens new ones if it is used again."""


def is_key(text: str) -> bool:
    """Return whether this is a key: a name that every store can hold, inside the archive."""
    return (
        bool(_KEY.fullmatch(text))
        and len(text) <= _LONGEST_KEY
        and max(map(len, text.split("/"))) <= _LONGEST_NAME
    )


def require_key(key: str) -> str:
    """Return the key. Raise ValueError if it is not valid."""
    if not is_key(key):
        raise ValueError(f"not a key of the archive: {key!r}")
    return key


def verify(store: Store, key: str, take: Callable[[BinaryIO], T]) -> T:
    """Return what ``take`` makes of an object's bytes.

    Raise MissingObjectError or UnreadableError if the object is gone or unreadable while the
    archive is there; raise StoreError if the archive is unavailable. An object that fails is read a
    second time, because one cut connection does not mean that the object is damaged.
    """
    with suppress(StoreError):
        return _read(store, key, take)
    require_archive(store)
    try:
        return _read(store, key, take)
    except MissingObjectError:
        raise
    except StoreError as error:
        raise UnreadableError(str(error)) from error


def _read(store: Store, key: str, take: Callable[[BinaryIO], T]) -> T:
    with store.open(key) as file:
        return take(file)


def require_archive(store: Store) -> None:
    """Raise StoreError if the archive is empty: then not an object is missing, but all of it."""
    if next(store.keys(), None) is None:
        raise StoreError("the archive holds no object at all: mount it, or correct ARCHIVE_URL")
