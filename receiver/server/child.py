"""A child process of the supervisor: started, watched, restarted, and stopped."""

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

# Seconds between two starts of a child that keeps dying.
RESTART_INTERVAL = 2.0
# The variable with the descriptor of the pipe through which a child reports that it is ready.
_READY = "RECEIVER_READY"

_PR_SET_PDEATHSIG = 1


class ChildProcess:
    """A supervised process; it inherits the descriptors ``inherited`` (the listening socket)."""

    def __init__(self, name: str, command: Sequence[str], *inherited: int) -> None:
        self.name = name
        self._command = command
        self._inherited = inherited
        self._started = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._ready_pipe = -1

    def start(self) -> None:
        """Start the process."""
        self._started = time.monotonic()
        self._close_pipe()
        self._ready_pipe, write_end = os.pipe()
        self._process = subprocess.Popen(
            self._command,
            env={**os.environ, _READY: str(write_end)},
            pass_fds=(*self._inherited, write_end),
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - no thread runs here
        )
        os.close(write_end)

    def becomes_ready(self, seconds: float) -> bool:
        """Wait up to ``seconds`` until the process reports that it is ready; return if it did."""
        readable = select.select([self._ready_pipe], [], [], seconds)[0]
        return bool(readable and os.read(self._ready_pipe, 1))  # empty: it died

    def is_dead(self) -> bool:
        """Return whether the process was started and has ended."""
        return self._process is not None and self._process.poll() is not None

    def restart_if_dead(self, stopping: threading.Event) -> None:
        """Start the process again if it ended, after a pause if it did not live long."""
        if self._process is None or self._process.poll() is None:
            return
        log.error(
            "process died, starting it again", process=self.name, status=self._process.returncode
        )
        if not stopping.wait(max(0.0, RESTART_INTERVAL - (time.monotonic() - self._started))):
            self.start()

    def terminate(self) -> None:
        """Ask the process to drain."""
        if self._process and self._process.poll() is None:
            self._process.terminate()

    def reap(self, deadline: float) -> None:
        """Wait until the process has ended; kill it at the deadline (monotonic seconds)."""
        self._close_pipe()
        if self._process is None:
            return
        try:
            self._process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.error("process did not drain in time", process=self.name)  # noqa: TRY400 - nothing to trace
            self._process.kill()
            self._process.wait()

    def _close_pipe(self) -> None:
        if self._ready_pipe >= 0:
            os.close(self._ready_pipe)
            self._ready_pipe = -1


def report_ready(environ: Mapping[str, str] = os.environ) -> None:
    """Report to the supervisor, if there is one, that this process is ready."""
    if pipe := environ.get(_READY):
        try:
            os.write(int(pipe), b"!")
        except OSError:
            log.debug("supervisor does not wait for this process")


def _die_with_parent() -> None:
    """Ask the kernel to send this process SIGTERM when its parent dies (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
