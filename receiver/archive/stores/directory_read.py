"""Read and list the objects of a store in a directory."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # stubs are a development tool, not installed with the service
    from _typeshed import WriteableBuffer


class ObjectFile(io.FileIO):
    """An object's file: an error of the disk while it is read is a StoreError."""

    def __init__(self, path: Path, errors: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__(path)
        self._errors = errors

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        """Read some bytes; see io.FileIO."""
        with self._errors():
            return super().readinto(buffer)

    def readall(self) -> bytes:
        """Read what is left; see io.FileIO."""
        with self._errors():
            return super().readall()


def walk(folder: Path, prefix: str, after: str) -> Iterator[tuple[str, int]]:
    """Yield the files below a folder whose names come after ``after``.

    They are sorted as S3 sorts them: ``/`` counts as a character of the name.
    """
    with os.scandir(folder) as entries:
        found = sorted(
            (entry.name + "/" * entry.is_dir(), entry)
            for entry in entries
            if not entry.name.startswith(".")
        )
    for name, entry in found:
        key = prefix + name
        if name.endswith("/"):
            if key > after or after.startswith(key):
                yield from walk(folder / entry.name, key, after)
        elif key > after and entry.is_file():
            with suppress(FileNotFoundError):  # removed since
                yield key, entry.stat().st_size
