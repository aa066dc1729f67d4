"""One process under the supervisor's care."""

import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence

import structlog

log = structlog.get_logger(__name__)

# A child that lived less than this many seconds is started again only after a pause of as many.
TOO_SHORT = 2.0
# Where a child finds the number of the pipe by which it says that it can work.
_READY = "RECEIVER_READY"

_PR_SET_PDEATHSIG = 1


class Child:
    """One supervised process; ``lent`` is a descriptor that it may use beside its own."""

    def __init__(self, name: str, command: Sequence[str], *lent: int) -> None:
        self.name = name
        self._command = command
        self._lent = lent
        self._started = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._said_ready = -1

    def start(self) -> None:
        """Start the process."""
        self._started = time.monotonic()
        self._forget_pipe()
        self._said_ready, its_end = os.pipe()
        self._process = subprocess.Popen(
            self._command,
            env={**os.environ, _READY: str(its_end)},
            pass_fds=(*self._lent, its_end),
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - no thread runs here
        )
        os.close(its_end)

    def becomes_ready(self, seconds: float) -> bool:
        """Wait so long for the process to say that it can work; say whether it did."""
        told = select.select([self._said_ready], [], [], seconds)[0]
        return bool(told and os.read(self._said_ready, 1))

    def is_dead(self) -> bool:
        """Say whether the process was started and has ended."""
        return self._process is not None and self._process.poll() is not None

    def restart_if_dead(self, stopping: threading.Event) -> None:
        """Start the process again if it ended; one that keeps dying is given time."""
        if self._process is None or self._process.poll() is None:
            return
        log.error(
            "process died, starting it again", process=self.name, status=self._process.returncode
        )
        if not stopping.wait(max(0.0, TOO_SHORT - (time.monotonic() - self._started))):
            self.start()

    def terminate(self) -> None:
        """Ask the process to drain."""
        if self._process and self._process.poll() is None:
            self._process.terminate()

    def reap(self, deadline: float) -> None:
        """Wait until the process is gone, and see to it at the deadline (monotonic seconds)."""
        self._forget_pipe()
        if self._process is None:
            return
        try:
            self._process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.error("process did not drain in time", process=self.name)  # noqa: TRY400 - nothing to trace
            self._process.kill()
            self._process.wait()

    def _forget_pipe(self) -> None:
        if self._said_ready >= 0:
            os.close(self._said_ready)
            self._said_ready = -1


def say_ready(environ: Mapping[str, str] = os.environ) -> None:
    """Tell the supervisor, if there is one, that this process can work."""
    if pipe := environ.get(_READY):
        try:
            os.write(int(pipe), b"!")
        except OSError:
            log.debug("nobody waits for us to be ready")


def _die_with_parent() -> None:
    """Have the kernel send this process SIGTERM when its parent dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
