"""Where the bytes go: a directory, or a bucket of S3-compatible storage.

A store gives two promises: a put that returned is durable and was verified by us, and the first bytes put under a key stay.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Literal, Protocol, TypeVar

from receiver.errors import MissingObjectError, StoreError, UnreadableError

T = TypeVar("T")
AddressingStyle = Literal["auto", "path", "virtual"]
Checksums = Literal["when_required", "when_supported"]

# A name never starts with a dot: no way up or out, and the directory store keeps its own hidden names beside the objects.
_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_KEY = re.compile(rf"{_NAME}(?:/{_NAME})*")
_LONGEST_NAME = 255  # of a file on Linux
_LONGEST_KEY = 500  # S3 allows 1,024 bytes, and a prefix comes before it


class Store(Protocol):
    """A place for objects, safe to use from many threads and processes.

    A key is a path of letters, digits, ``.``, ``_`` and ``-`` such as ``2026/07/01/01J…/0.png``; anything else is a ValueError.
    Whatever else goes wrong is a StoreError whose text names the place and the remedy.
    """

    def put(self, key: str, path: Path, *, sha256: str, content_type: str) -> None:
        """Store the file's bytes under the key; on return they are durable and their SHA-256 (lower-case hex) was checked.

        The same bytes already there are a success: an earlier put whose finish was lost. Other bytes already there stay, and
        ObjectDiffersError is raised.
        """

    def replace(self, key: str, data: bytes, *, content_type: str) -> None:
        """Store these bytes under the key whatever is there; readers see the old or the new ones, never a mixture. Durable on return."""

    def open(self, key: str, start: int = 0) -> BinaryIO:
        """Return the object's bytes, from the one at ``start`` on, as a stream to be read in parts and closed.

        Raise MissingObjectError if there is none.
        """

    def link(self, key: str, seconds: int, *, name: str) -> str | None:
        """Return a URL that gives the object to everybody for so many seconds, as a file called ``name``; None where there is none."""

    def keys(self, prefix: str = "", after: str = "") -> Iterator[tuple[str, int]]:
        """Go through the objects below the folder ``prefix``, sorted by name: name and size in bytes.

        A listing that was broken off goes on behind ``after``, the last name it gave. What begins with a dot is passed over; what strangers
        put there is not, so that a name need not be a key. Raise StoreError, also where there is no archive at all.
        """

    def check(self) -> None:
        """Try whether objects can be written and read back here; raise StoreError saying what is wrong and what to do."""

    def locate(self, key: str) -> str:
        """Return where the object is, for people: a file's path or an ``s3://`` URL."""

    def close(self) -> None:
        """Let go of connections; the store opens new ones if it is used again."""


def is_key(text: str) -> bool:
    """Say whether every store could hold an object of this name, and none would put it outside of the archive."""
    return (
        bool(_KEY.fullmatch(text))
        and len(text) <= _LONGEST_KEY
        and max(map(len, text.split("/"))) <= _LONGEST_NAME
    )


def require_key(key: str) -> str:
    """Return the key, or raise ValueError if it is none."""
    if not is_key(key):
        raise ValueError(f"not a key of the archive: {key!r}")
    return key


def verify(store: Store, key: str, take: Callable[[BinaryIO], T]) -> T:
    """Return what ``take`` makes of an object's bytes.

    Raise MissingObjectError or UnreadableError if the object is gone or cannot be read although the archive is there, else StoreError.
    An object that fails is read once more: one cut connection does not damage a picture.
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
    """Raise StoreError if nothing can be seen in the archive: then no object of it is missing, the archive is."""
    if next(store.keys(), None) is None:
        raise StoreError("the archive holds no object at all: mount it, or correct ARCHIVE_URL")
