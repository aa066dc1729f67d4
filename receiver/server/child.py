"""A child process of the supervisor: started, watched, restarted, and stopped.

The first children are forked by ``receiver serve``, which has imported what they need: they start
in a third of the time, and share memory. The supervisor adopts them. It starts the next ones as
new programs, which may be of another release.
"""

import ctypes
import math
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn, Protocol

import structlog

log = structlog.get_logger(__name__)

# Seconds between two starts of a child that ends again and again.
RESTART_INTERVAL = 2.0
# The variable with the descriptor of the pipe through which a child reports that it is ready.
_READY = "RECEIVER_READY"

# Seconds between two checks whether a child has ended, as in ``subprocess``.
_PAUSE = 0.02
_PR_SET_PDEATHSIG = 1


class _Process(Protocol):
    """The part of ``subprocess.Popen`` that the supervisor needs."""

    returncode: int | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class ChildProcess:
    """A supervised process; it inherits the descriptors ``inherited`` (the listening socket)."""

    def __init__(self, name: str, command: Sequence[str], *inherited: int) -> None:
        self.name = name
        self._command = command
        self._inherited = inherited
        self._started = 0.0
        self._process: _Process | None = None
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
            preexec_fn=die_with_parent,  # noqa: PLW1509 - no thread runs here
        )
        os.close(write_end)

    def fork(self, run: Callable[[], object], *, close: Sequence[int] = ()) -> str:
        """Fork this process; the child calls ``run`` and exits. It closes the descriptors first.

        Return a text for ``adopt``, which the program that replaces this one calls.
        """
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            for number in (*close, read_end):
                os.close(number)
            _become_child(write_end, run)
        os.close(write_end)
        os.set_inheritable(read_end, True)
        return f"{pid}:{read_end}"

    def adopt(self, forked: str) -> None:
        """Take over a process that ``fork`` returned in the program before."""
        self._started = time.monotonic()
        pid, self._ready_pipe = map(int, forked.split(":"))
        os.set_inheritable(self._ready_pipe, False)
        self._process = AdoptedProcess(pid)

    def becomes_ready(self, seconds: float) -> bool:
        """Wait up to ``seconds`` until the process reports that it is ready; return if it did."""
        readable = select.select([self._ready_pipe], [], [], seconds)[0]
        return bool(readable and os.read(self._ready_pipe, 1))  # empty: the process has ended

    def is_dead(self) -> bool:
        """Return whether the process was started and has ended."""
        return self._process is not None and self._process.poll() is not None

    def restart_if_dead(self, stopping: threading.Event) -> None:
        """Start the process again if it has ended, after a pause if it ran only a short time."""
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


class AdoptedProcess:
    """A child process that another program forked in this process."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal, or None while it runs."""
        if self.returncode is None and (ended := os.waitpid(self._pid, os.WNOHANG))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status; raise TimeoutExpired after ``timeout`` seconds."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(str(self._pid), timeout or 0.0)
            time.sleep(_PAUSE)
        return status

    def terminate(self) -> None:
        """Send SIGTERM, unless it has ended."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self._pid, number)


def _become_child(write_end: int, run: Callable[[], object]) -> NoReturn:
    die_with_parent()
    os.environ[_READY] = str(write_end)
    run()
    sys.exit(0)


def is_supervised(environ: Mapping[str, str]) -> bool:
    """Return whether this process is a child of `receiver serve`."""
    return _READY in environ


def report_ready(environ: Mapping[str, str] = os.environ) -> None:
    """Report to the supervisor, if there is one, that this process is ready."""
    if pipe := environ.get(_READY):
        try:
            os.write(int(pipe), b"!")
        except OSError:
            log.debug("supervisor does not wait for this process")


def die_with_parent() -> None:
    """Ask the kernel to send this process SIGTERM when its parent dies (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
