"""A child that was forked by the program before: its end is noticed, and it can be ended."""

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress

import pytest
from waiting import LIMIT, until

from receiver.server.child import AdoptedProcess


def started(code: str) -> AdoptedProcess:
    """Return a child of this process that runs this Python code."""
    command = [sys.executable, "-S", "-c", code]
    return AdoptedProcess(os.posix_spawn(sys.executable, command, {}))


def test_its_exit_status_is_that_of_the_process_and_stays() -> None:
    child = started("raise SystemExit(3)")
    assert child.wait(LIMIT) == 3
    child.terminate()  # it has ended: no other process gets the signal
    assert (child.poll(), child.returncode) == (3, 3)


def test_who_does_not_end_in_time_is_reported_and_can_be_killed() -> None:
    child = started("import time; time.sleep(600)")
    assert child.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.01)
    child.kill()
    until(lambda: child.poll() == -9, what="the end of the child")


def test_sigterm_ends_it() -> None:
    child = started("import time; time.sleep(600)")
    child.terminate()
    assert child.wait(LIMIT) == -15


_MIGRATES = """
import os, sys, time
from types import SimpleNamespace
from receiver.cli import serve

def migrate():
    print(os.getpid(), flush=True)
    time.sleep(600)

ledger = SimpleNamespace(
    settings=SimpleNamespace(embedded=True), needs_migration=lambda: True,
    close=lambda: None, open=migrate,
)
serve._migrate_apart(ledger)
"""


def test_a_migration_ends_with_the_service_that_started_it() -> None:
    with subprocess.Popen([sys.executable, "-c", _MIGRATES], stdout=subprocess.PIPE) as service:
        assert service.stdout
        migration = int(service.stdout.readline())
        service.terminate()
        try:
            # Both have had the pipe: it ends when both have.
            assert select.select([service.stdout], [], [], LIMIT)[0], "still migrating"
        finally:
            with suppress(ProcessLookupError):
                os.kill(migration, signal.SIGKILL)
        assert service.wait(LIMIT) == -signal.SIGTERM
