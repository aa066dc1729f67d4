"""A child that was forked by the program before: its end is noticed, and it can be ended."""

import os
import subprocess
import sys

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
