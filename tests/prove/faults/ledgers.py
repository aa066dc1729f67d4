"""Ledgers that cannot be written for a while, or are lost."""

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
from tests.prove.environment import Environment
from tests.prove.fault import CannotBeHadError, Fault

# Seconds the lock is held: longer than a write waits for it, so that callbacks are refused.
_LOCKED = 7.0
_FULL = 2.0
_DISK = 32  # MiB

# Of Linux: CLONE_NEWNS, MS_PRIVATE, MS_REC, MNT_DETACH.
_NEW_NAMESPACE, _PRIVATE, _RECURSIVE, _LAZILY = 0x00020000, 1 << 18, 0x4000, 2


def _locked(env: Environment) -> None:
    """Let another process's transaction hold the lock that every write needs."""
    env.start_and_wait()
    with env.load():
        env.moment()
        with env.recovering("the ledger's lock"), _lock(env):
            time.sleep(_LOCKED)


@contextmanager
def _lock(env: Environment) -> Iterator[None]:
    settings = Settings.load(env.installation.environ)
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


def _full(env: Environment) -> None:
    """Fill the disk under DATA_DIR for a while.

    It is a small tmpfs in this process's own mount namespace, and ends with the process.
    """
    _small_disk(env)
    env.start_and_wait()
    with env.load(most=60):
        env.moment()
        refused, cut = _refused(env), len(env.seen.cut)
        with env.recovering("a full disk"), _filled(env.installation.data):
            until(
                lambda: _refused(env) > refused or len(env.seen.cut) > cut,
                within=30,
                what="that a full disk refuses a callback",
            )
            time.sleep(_FULL)
        # A provider that gets a 503 may repeat; one without an answer may not.
        env.cut = [error for _, error in env.seen.cut[cut:]]


def _refused(env: Environment) -> int:
    return sum(env.seen.refused.values())


def _small_disk(env: Environment) -> None:
    if os.geteuid() != 0:
        raise CannotBeHadError("only root may mount a small disk")
    path = env.installation.data
    path.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NAMESPACE) or libc.mount(b"none", b"/", None, _RECURSIVE | _PRIVATE, None):
        raise CannotBeHadError(f"no mount namespace here: {os.strerror(ctypes.get_errno())}")
    if libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", 0, b"size=%dm" % _DISK):
        raise CannotBeHadError(f"no tmpfs here: {os.strerror(ctypes.get_errno())}")
    env.stack.callback(libc.umount2, os.fsencode(path), _LAZILY)


@contextmanager
def _filled(folder: Path) -> Iterator[None]:
    filler = folder / "filler"
    with (
        filler.open("wb", buffering=0) as file,
        suppress(OSError),
    ):  # the error that says that the disk is full
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        filler.unlink()


def _lost(env: Environment) -> None:
    """Delete the ledger when all is archived, and rebuild it from the archive."""
    env.start_and_wait()
    with env.load(menus={"order": ({},)}):
        env.moment()
    if silent := env.quiet():
        raise AssertionError(silent)
    env.service.stop(within=30)
    for path in env.installation.data.glob("ledger.sqlite3*"):
        path.unlink()
    env.rebuilt = True
    done = env.installation.run("receiver", "rebuild")
    assert done.status == 0, done.err
    env.start_and_wait()


# Otherwise an id could come too late for the job's deadline: a loss of our own making.
_PATIENT = {"JOB_TIMEOUT": "20"}

LEDGERS = (
    Fault("ledger locked", _locked, 20, settings=_PATIENT),
    Fault("disk full", _full, 25, settings=_PATIENT, ledgers=("sqlite",), archives=("directory",)),
    Fault("ledger deleted", _lost, 8, ledgers=("sqlite",)),
)
