"""``receiver serve``: web and worker as child processes, started again when they die, drained together on SIGTERM.

The listening socket belongs to this process and is only lent to the web: while the web is restarted, callers wait in the socket's queue
and are answered by its successor. SIGHUP starts new children, of the code and configuration as they are now, and ends the old ones when the
new ones can work. The children ask the kernel to be stopped when this process dies, so that even a ``kill -9`` of it leaves nothing behind.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

import structlog

from receiver import clock
from receiver.server.child import Child

log = structlog.get_logger(__name__)

# Seconds the children have to drain: the worker gives back what it holds after 8, gunicorn cuts requests after 8.
DRAIN = 9.5
# Seconds new children have to get ready at a reload; then the old ones stay.
READY_WITHIN = 30.0
# Seconds the machine's clock may be off from ours before we say so.
CLOCK_ERROR = 60.0


def serve(listener: socket.socket) -> None:
    """Run web and worker until SIGTERM or SIGINT, and close the socket they answer on."""
    _Supervisor(listener).run()


class _Supervisor:
    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._children: list[Child] = []
        self._asked = threading.Event()  # by a signal, to stop or to reload
        self._stopping = self._reloading = False
        self._clock_error = 0.0

    def run(self) -> None:
        """Start the children and look after them."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)
        clock.share()
        self._children = self._start()
        while not self._stopping:
            self._asked.wait(0.2)
            self._asked.clear()
            if self._reloading and not self._stopping:
                self._reloading = False
                self._reload()
            for child in self._children:
                child.restart_if_dead(self._asked)
            self._watch_the_clock()
        log.info("draining", pid=os.getpid())
        self._listener.close()  # the web's copy is now the last, and it answers who waits there before it closes it
        _end(self._children)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._reloading = True
        else:
            self._stopping = True
        self._asked.set()

    def _start(self) -> list[Child]:
        lent = self._listener.fileno()
        web = [
            "-m",
            "gunicorn",
            "-c",
            "python:receiver.gunicorn_conf",
            "--bind",
            f"fd://{lent}",
            "receiver.web:create_app()",
        ]
        worker = [sys.executable, "-m", "receiver", "worker"]
        children = [Child("web", [sys.executable, *web], lent), Child("worker", worker)]
        for child in children:
            child.start()
        return children

    def _reload(self) -> None:
        """Put new children in the place of the old; if they cannot work, say so and keep the old."""
        log.info("reloading", pid=os.getpid())
        new = self._start()
        if self._become_ready(new):
            new, self._children = self._children, new
            log.info("reloaded", pid=os.getpid())
        else:
            log.error("reload given up, the old processes go on: the new ones do not work")
        _end(new)

    def _become_ready(self, children: Sequence[Child]) -> bool:
        """Wait until each child says that it can work; False if one dies instead, says nothing, or we are to stop."""
        deadline = time.monotonic() + READY_WITHIN
        waiting = list(children)
        while waiting and not self._stopping and time.monotonic() < deadline:
            waiting = [child for child in waiting if not child.becomes_ready(0.2)]
            if any(child.is_dead() for child in waiting):
                return False
        return not waiting

    def _watch_the_clock(self) -> None:
        error = clock.error()
        if abs(error - self._clock_error) > CLOCK_ERROR:
            self._clock_error = error
            log.warning(
                "this machine's clock was set; the service keeps its own time until it is started anew",
                seconds=round(error),
            )


def _end(children: Sequence[Child]) -> None:
    """Have the children drain, and see to it that they are gone then."""
    deadline = time.monotonic() + DRAIN
    for child in children:
        child.terminate()
    for child in children:
        child.reap(deadline)
