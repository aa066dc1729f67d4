"""The checkpoint of a deep audit: how far it is and what it has found.

It is a file in DATA_DIR, so that hours of reading survive Ctrl-C and ``kill -9``.
"""

import json
import os
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from tempfile import mkstemp
from typing import Literal

from pydantic import BaseModel, ConfigDict

from receiver.errors import ReceiverError

# How many differences are stored as text; the others are only counted.
MAX_LISTED = 10_000


class Pass(StrEnum):
    """The two passes of a deep audit."""

    PICTURES = "pictures"  # through the ledger, newest job first
    NAMES = "names"  # through the archive


class Checkpoint(BaseModel):
    """The progress so far.

    ``archive`` is the ARCHIVE_URL, ``after`` the last ref or name that is done.
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    archive: str
    step: Pass = Pass.PICTURES
    after: str = ""
    jobs: int = 0
    pictures: int = 0
    names: int = 0
    # Names that a manifest explains, of jobs that the ledger no longer has.
    forgotten: int = 0
    differences: int = 0
    named: list[str] = []

    def record(
        self,
        after: str,
        differences: list[str],
        *,
        jobs: int = 0,
        pictures: int = 0,
        names: int = 0,
        forgotten: int = 0,
    ) -> None:
        """Record that everything up to ``after`` is done, and the differences found there."""
        self.after = after
        self.jobs += jobs
        self.pictures += pictures
        self.names += names
        self.forgotten += forgotten
        self.differences += len(differences)
        self.named += differences[: MAX_LISTED - len(self.named)]

    def begin(self, step: Pass) -> None:
        """Begin the next pass."""
        self.step, self.after = step, ""


def load(path: Path, archive: str) -> Checkpoint | None:
    """Return the checkpoint of this archive, or None if there is none or it is invalid."""
    with suppress(FileNotFoundError, ValueError):  # json and pydantic raise ValueErrors
        found = Checkpoint.model_validate(json.loads(_read(path)))
        return found if found.archive == archive else None
    return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ReceiverError(
            f"the checkpoint of the last deep audit cannot be read: {error}; --anew starts over"
        ) from error


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Store the checkpoint. If we are killed meanwhile, the file has the old or the new one."""
    try:
        descriptor, name = mkstemp(dir=path.parent, prefix=f"{path.name}.")
        try:
            with open(descriptor, "w", encoding="ascii") as file:  # noqa: PTH123 - a descriptor has no path
                # json, because pydantic refuses names that are not valid Unicode.
                json.dump(checkpoint.model_dump(), file)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ReceiverError(f"the deep audit's checkpoint cannot be written: {error}") from error
