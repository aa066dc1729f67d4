"""Failpoints: places where `make prove` kills this process, to check that nothing is lost.

They work only if RECEIVER_FAULTS names a folder. A file there, named like a failpoint, arms it
once: the first process that reaches it removes the file and kills itself, as by ``kill -9``.
"""

import os
import signal
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path


class Point(StrEnum):
    """The moments between two steps that a crash may separate."""

    WRITTEN_DOWN = "written-down"  # the job's row is durable, its POST not sent
    POSTED = "posted"  # the provider has answered, the ledger does not know it
    BEFORE_COMMIT = "before-commit"
    AFTER_COMMIT = "after-commit"  # durable, not answered
    FETCHED = "fetched"  # downloaded, not archived
    STORED = "stored"  # archived, the ledger does not know it
    FINISHED = "finished"  # the asset is done; its job too, if it was the last one
    MANIFEST_STORED = "manifest-stored"  # the manifest is written, the job not concluded
    MIGRATED = "migrated"  # the schema is changed, but not committed


_folder: list[Path] = []


def arm(environ: Mapping[str, str]) -> None:
    """Enable the failpoints of this process if the environment names their folder."""
    if folder := environ.get("RECEIVER_FAULTS"):
        _folder.append(Path(folder))


def reached(point: Point) -> None:
    """Kill this process if this failpoint is armed."""
    for folder in _folder:
        try:
            (folder / point).unlink()
        except FileNotFoundError:
            continue
        os.kill(os.getpid(), signal.SIGKILL)
