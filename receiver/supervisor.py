"""``receiver serve``: web and worker as two child processes, started again when they die, drained together on SIGTERM.

The children ask the kernel to be stopped when this process dies, so that even a ``kill -9`` of it leaves nothing behind.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

import structlog

from receiver.errors import ConfigurationError

log = structlog.get_logger(__name__)

# Seconds the children have to drain: the worker gives back what it holds after 8, gunicorn cuts requests after 8.
DRAIN = 9.5
# A child that lived less than this many seconds is started again only after a pause of as many.
TOO_SHORT = 2.0

_PR_SET_PDEATHSIG = 1


class Child:
    """One supervised process."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self._command = command
        self._started = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process."""
        self._started = time.monotonic()
        self._process = subprocess.Popen(self._command, preexec_fn=_die_with_parent)  # noqa: PLW1509 - no thread runs yet between fork and exec

    def restart_if_dead(self, stopping: threading.Event) -> None:
        """Start the process again if it ended; one that keeps dying is given time."""
        if self._process is None or self._process.poll() is None:
            return
        log.error("process died, starting it again", process=self.name, status=self._process.returncode)
        stopping.wait(max(0.0, TOO_SHORT - (time.monotonic() - self._started)))
        if not stopping.is_set():
            self.start()

    def terminate(self) -> None:
        """Ask the process to drain."""
        if self._process and self._process.poll() is None:
            self._process.terminate()

    def reap(self, deadline: float) -> None:
        """Wait until the process is gone, and see to it at the deadline (monotonic seconds)."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.error("process did not drain in time", process=self.name)  # noqa: TRY400 - nothing to trace
            self._process.kill()
            self._process.wait()


def _die_with_parent() -> None:
    """Have the kernel send this process SIGTERM when its parent dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _require_free(host: str, port: int) -> None:
    """Raise ConfigurationError if nobody can listen there: a web process that cannot start would be started again for ever."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family):
            pass
    except OSError as error:
        raise ConfigurationError([f"PORT, --host, --port: cannot listen on {host}:{port} ({error.strerror}); choose another"]) from error


def serve(host: str, port: int) -> None:
    """Run web and worker until SIGTERM or SIGINT; raise ConfigurationError if the address is taken."""
    _require_free(host, port)
    web = ["-m", "gunicorn", "-c", "python:receiver.gunicorn_conf", "--bind", f"{host}:{port}", "receiver.web:create_app()"]
    children = [Child("web", [sys.executable, *web]), Child("worker", [sys.executable, "-m", "receiver", "worker"])]
    stopping = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    for child in children:
        child.start()
    while not stopping.wait(0.2):
        for child in children:
            child.restart_if_dead(stopping)
    log.info("draining", pid=os.getpid())
    deadline = time.monotonic() + DRAIN
    for child in children:
        child.terminate()
    for child in children:
        child.reap(deadline)
