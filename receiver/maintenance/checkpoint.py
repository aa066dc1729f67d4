"""Where a deep audit is, and what it has found: kept in a file of DATA_DIR, so that hours of reading survive Ctrl-C and ``kill -9``."""

import json
import os
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from tempfile import mkstemp
from typing import Literal

from pydantic import BaseModel, ConfigDict

from receiver.errors import ReceiverError

# Differences kept by name; beyond these they are only counted.
MAX_LISTED = 10_000


class Step(StrEnum):
    """Which of its two passes an audit is in."""

    PICTURES = "pictures"  # through the ledger, newest job first
    NAMES = "names"  # through the archive


class Checkpoint(BaseModel):
    """What was passed so far; ``archive`` is the ARCHIVE_URL it belongs to, ``after`` the last ref or name that is done with."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    archive: str
    step: Step = Step.PICTURES
    after: str = ""
    jobs: int = 0
    pictures: int = 0
    names: int = 0
    forgotten: int = (
        0  # of the names, those of jobs that the ledger no longer has, but their manifests tell of
    )
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
        """Note what is done with, and what differed there."""
        self.after = after
        self.jobs += jobs
        self.pictures += pictures
        self.names += names
        self.forgotten += forgotten
        self.differences += len(differences)
        self.named += differences[: MAX_LISTED - len(self.named)]

    def begin(self, step: Step) -> None:
        """Begin the next pass."""
        self.step, self.after = step, ""


def load(path: Path, archive: str) -> Checkpoint | None:
    """Return the place that was kept for this archive; None where there is none, or none that can be read."""
    with suppress(
        FileNotFoundError, ValueError
    ):  # pydantic's error is a ValueError, and so is json's
        place = Checkpoint.model_validate(json.loads(_read(path)))
        return place if place.archive == archive else None
    return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ReceiverError(
            f"the place of the last deep audit cannot be read: {error}; --anew starts over"
        ) from error


def save(path: Path, place: Checkpoint) -> None:
    """Keep a place: who reads the file finds the old one or the new one, whenever we are killed."""
    try:
        descriptor, name = mkstemp(dir=path.parent, prefix=f"{path.name}.")
        try:
            with open(descriptor, "w", encoding="ascii") as file:  # noqa: PTH123 - a descriptor has no path
                json.dump(
                    place.model_dump(), file
                )  # not pydantic's own: names of strangers need not be Unicode
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ReceiverError(f"the place of the deep audit cannot be kept: {error}") from error
