"""Ledgers that cannot be written for a while, or are gone."""

import ctypes
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from sqlalchemy import create_engine, text
from waiting import until

from receiver.settings import Settings
from tests.prove.environment import Stage
from tests.prove.fault import CannotBeHadError, Fault

# Seconds the lock is held: longer than a write waits for SQLite's own lock, so that callbacks are refused meanwhile.
_LOCKED = 7.0
_FULL = 2.0
_DISK = 32  # MiB

# Of Linux: CLONE_NEWNS, MS_PRIVATE, MS_REC, MNT_DETACH.
_NEW_NAMESPACE, _PRIVATE, _RECURSIVE, _LAZILY = 0x00020000, 1 << 18, 0x4000, 2


def _locked(stage: Stage) -> None:
    """Have another process's transaction hold what every write needs."""
    stage.start_and_wait()
    with stage.load():
        stage.moment()
        with stage.recovering("the ledger's lock"), _lock(stage):
            time.sleep(_LOCKED)


@contextmanager
def _lock(stage: Stage) -> Iterator[None]:
    settings = Settings.load(stage.installation.environ)
    if settings.embedded:
        with closing(
            sqlite3.connect(settings.ledger_path, isolation_level=None, timeout=30)
        ) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")
        return
    engine = create_engine(settings.database_url)
    try:
        with engine.begin() as connection:
            connection.execute(text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"))
            yield
    finally:
        engine.dispose()


def _full(stage: Stage) -> None:
    """Fill the disk under DATA_DIR for a while; it is a small one of its own, which nobody else sees and which goes with this process."""
    _small_disk(stage)
    stage.start_and_wait()
    with stage.load(most=60):
        stage.moment()
        refused, cut = _refused(stage), len(stage.seen.cut)
        with stage.recovering("a full disk"), _filled(stage.installation.data):
            until(
                lambda: _refused(stage) > refused or len(stage.seen.cut) > cut,
                within=30,
                what="that a full disk refuses a callback",
            )
            time.sleep(_FULL)
        # A provider that is told 503 may come again; one that is told nothing may not.
        stage.cut = [error for _, error in stage.seen.cut[cut:]]


def _refused(stage: Stage) -> int:
    return sum(stage.seen.refused.values())


def _small_disk(stage: Stage) -> None:
    if os.geteuid() != 0:
        raise CannotBeHadError("only root may mount a small disk")
    path = stage.installation.data
    path.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NAMESPACE) or libc.mount(b"none", b"/", None, _RECURSIVE | _PRIVATE, None):
        raise CannotBeHadError(f"no mount namespace here: {os.strerror(ctypes.get_errno())}")
    if libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", 0, b"size=%dm" % _DISK):
        raise CannotBeHadError(f"no tmpfs here: {os.strerror(ctypes.get_errno())}")
    stage.stack.callback(libc.umount2, os.fsencode(path), _LAZILY)


@contextmanager
def _filled(folder: Path) -> Iterator[None]:
    filler = folder / "filler"
    with (
        filler.open("wb", buffering=0) as file,
        suppress(OSError),
    ):  # which is what says that the disk is full
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        filler.unlink()


def _lost(stage: Stage) -> None:
    """Delete the ledger once all is archived, and have it rebuilt from the archive."""
    stage.start_and_wait()
    with stage.load(menus={"order": ({},)}):
        stage.moment()
    if silent := stage.quiet():
        raise AssertionError(silent)
    stage.service.stop(within=30)
    for path in stage.installation.data.glob("ledger.sqlite3*"):
        path.unlink()
    stage.rebuilt = True
    done = stage.installation.run("receiver", "rebuild")
    assert done.status == 0, done.err
    stage.start_and_wait()


# An id that the API was told, and could not write down before the job's deadline, would be a loss we made ourselves.
_PATIENT = {"JOB_TIMEOUT": "20"}

LEDGERS = (
    Fault("ledger locked", _locked, 20, settings=_PATIENT),
    Fault("disk full", _full, 25, settings=_PATIENT, ledgers=("sqlite",), archives=("directory",)),
    Fault("ledger deleted", _lost, 8, ledgers=("sqlite",)),
)
