"""Reading objects back to see whether they are sound: what is one object's own fault is told apart from an archive that is away."""

from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO, TypeVar

from receiver.archive.stores import Store
from receiver.errors import MissingObjectError, StoreError, UnreadableError

T = TypeVar("T")


def read_back(store: Store, key: str, take: Callable[[BinaryIO], T]) -> T:
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
