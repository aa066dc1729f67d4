"""A copy of the ledger in SQLite, made while the service works on it."""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from tempfile import mkstemp

from receiver.errors import LedgerError


def back_up(ledger: Path, file: Path) -> int:
    """Copy what was committed to ``ledger`` at one moment into a new ``file``; return its jobs.

    The copy is one file without a WAL, on disk, and readable for its owner only. Writers do not
    wait for it. Raise LedgerError if it cannot be made or is not sound; then there is no ``file``.
    """
    try:
        descriptor, name = mkstemp(dir=file.parent, prefix=f".{file.name}.")
        os.close(descriptor)
    except OSError as error:
        raise LedgerError(f"no backup: {file.parent}: {error.strerror}") from error
    try:
        jobs = _copy(ledger, name)
        Path(name).rename(file)  # not a hard link: network shares may not support it
        _sync_folder(file.parent)
    except (sqlite3.Error, OSError) as error:
        raise LedgerError(f"no backup: {error}") from error
    finally:
        for part in (name, f"{name}-journal", f"{name}-wal", f"{name}-shm"):
            with suppress(FileNotFoundError):
                Path(part).unlink()
    return jobs


def _copy(ledger: Path, name: str) -> int:
    with (
        closing(sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True)) as source,
        closing(sqlite3.connect(name)) as target,
    ):
        # In one step: if a writer came between two steps, SQLite would start again.
        source.backup(target)
        target.execute("PRAGMA journal_mode=DELETE")
        if (found := target.execute("PRAGMA quick_check(1)").fetchone()) != ("ok",):
            raise LedgerError(f"no backup: the ledger is damaged ({found[0]})")
        count: int = target.execute("SELECT count(*) FROM jobs").fetchone()[0]
        return count


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
