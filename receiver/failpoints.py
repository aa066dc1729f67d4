"""Fault points: named instants at which the proof (`make prove`) kills this process, to see that nothing is lost.

They exist only where RECEIVER_FAULTS names a folder. A file there, called like a point, arms that point once: whoever reaches it first
takes the file away and is dead, as by ``kill -9``.
"""

import os
import signal
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path


class Point(StrEnum):
    """The boundaries between two things that must not both be believed after only one has happened."""

    WRITTEN_DOWN = "written-down"  # the job's row is durable, its POST not sent
    POSTED = "posted"  # the provider has answered, the ledger does not know
    BEFORE_COMMIT = "before-commit"
    AFTER_COMMIT = "after-commit"  # durable, nobody told
    FETCHED = "fetched"  # the file is here, the archive has nothing
    STORED = "stored"  # the archive has it, the ledger does not know
    FINISHED = "finished"  # the asset is done, its job not concluded
    MANIFEST_STORED = "manifest-stored"  # the manifest is written, the job not concluded
    MIGRATED = "migrated"  # the schema is changed, but not committed


_folder: list[Path] = []


def arm(environ: Mapping[str, str]) -> None:
    """Have this process know its fault points, if the environment names their folder."""
    if folder := environ.get("RECEIVER_FAULTS"):
        _folder.append(Path(folder))


def reached(point: Point) -> None:
    """Die here if this point is armed."""
    for folder in _folder:
        try:
            (folder / point).unlink()
        except FileNotFoundError:
            continue
        os.kill(os.getpid(), signal.SIGKILL)
