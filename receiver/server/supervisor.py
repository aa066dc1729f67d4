"""The supervisor of ``receiver serve``: web and worker as child processes, restarted when they die.

``receiver serve`` forks the children, because it has imported what they need, and then replaces
itself by the supervisor, in the same process. The supervisor runs as long as the service and needs
few modules.

SIGTERM drains them together. The listening socket belongs to this process and is inherited by the
web: while the web restarts, clients wait in the socket's queue. SIGHUP starts new children with
the current code and configuration, and stops the old ones when the new ones are ready. The kernel
stops the children when this process dies, so that even ``kill -9`` leaves no process behind.
"""

from receiver.telemetry import structlog_alone  # noqa: F401, I001 - before all that imports structlog

import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import NoReturn, cast

import structlog
from setproctitle import setproctitle

from receiver import clock
from receiver.server.child import ChildProcess
from receiver.telemetry import logs
from receiver.telemetry.logs import LogFormat

log = structlog.get_logger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_WRONG_CONFIGURATION = 2  # exit status, as of our commands
# Seconds the children have to drain: the worker releases its claims after 8, and gunicorn ends
# requests after 8.
DRAIN_TIMEOUT = 9.5
# Seconds new children have to become ready at a reload; then the old ones stay.
READY_TIMEOUT = 30.0
# Seconds by which the machine's clock may differ from ours before that is logged.
CLOCK_ERROR = 60.0


def become_supervisor(listener: socket.socket, log_level: str, log_format: LogFormat) -> NoReturn:
    """Start web and worker, and replace the program of this process by their supervisor.

    It never returns. Until SIGTERM or SIGINT the web takes requests from ``listener``.
    """
    listener.set_inheritable(True)
    # These signals wait until the new program has its handlers; without a handler they would kill
    # it.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    clock.share()
    gc.freeze()  # the collector would write to every object, and undo the sharing of memory
    web, worker = _children(listener.fileno())
    forked = [web.fork(lambda: _run_web(listener))]
    forked.append(worker.fork(lambda: _run_worker(listener)))
    arguments = [str(listener.fileno()), log_level, log_format, *forked]
    program = [sys.executable, "-m", __name__, *arguments]
    os.execv(sys.executable, program)  # noqa: S606 - our own program, without a shell


def _children(socket_fd: int) -> list[ChildProcess]:
    """Return web and worker, not started."""
    return [
        ChildProcess("web", [sys.executable, "-m", "gunicorn", *_gunicorn(socket_fd)], socket_fd),
        ChildProcess("worker", [sys.executable, "-m", "receiver", "worker"]),
    ]


def _gunicorn(socket_fd: int) -> list[str]:
    """Return gunicorn's arguments."""
    configuration = ["-c", "python:receiver.gunicorn_conf", "--bind", f"fd://{socket_fd}"]
    return [*configuration, "receiver.web:create_app()"]


def _run_web(listener: socket.socket) -> None:
    """Run the web in a forked process."""
    main_module = import_module("gunicorn.__main__")  # it runs nothing unless it is the program
    sys.argv = [str(main_module.__file__), *_gunicorn(listener.detach())]
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    import_module("gunicorn.app.wsgiapp").run(prog="gunicorn")


def _run_worker(listener: socket.socket) -> None:
    """Run the worker in a forked process."""
    listener.close()  # only the web has it
    if sys.platform == "linux":  # elsewhere it may crash after a fork
        setproctitle("receiver worker")  # for ps; gunicorn does the same
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    import_module("receiver.cli").main(["worker"])


class _Supervisor:
    def __init__(self, listener: socket.socket, forked: Sequence[str]) -> None:
        self._listener = listener
        self._children = _children(listener.fileno())
        for child, process in zip(self._children, forked, strict=True):
            child.adopt(process)
        self._signalled = threading.Event()  # to stop or to reload
        self._stopping = self._reloading = False
        self._clock_error = 0.0

    def run(self) -> None:
        """Watch the children, and stop them at the end."""
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        try:
            self._watch()
        finally:
            log.info("service draining", pid=os.getpid())
            # The web has the last copy now. It serves the clients in the queue before it closes it.
            self._listener.close()
            _stop(self._children)

    def _watch(self) -> None:
        """Restart dead children and reload until SIGTERM or SIGINT."""
        while not self._stopping:
            self._signalled.wait(0.2)
            self._signalled.clear()
            if self._reloading and not self._stopping:
                self._reloading = False
                self._reload()
            for child in self._children:
                if child.is_dead() and not child.becomes_ready(0):
                    _check_packages()
                child.restart_if_dead(self._signalled)
            self._check_clock()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._reloading = True
        else:
            self._stopping = True
        self._signalled.set()

    def _reload(self) -> None:
        """Replace the children by new ones; if those do not become ready, keep the old ones."""
        log.info("service reloading", pid=os.getpid())
        new = _children(self._listener.fileno())
        for child in new:
            child.start()
        if self._become_ready(new):
            new, self._children = self._children, new
            log.info("service reloaded", pid=os.getpid())
        else:
            log.error("reload failed, old processes kept: the new ones are not ready")
        _stop(new)

    def _become_ready(self, children: Sequence[ChildProcess]) -> bool:
        """Wait until all children are ready; return False if one ends or is late, or at a stop."""
        deadline = time.monotonic() + READY_TIMEOUT
        waiting = list(children)
        while waiting and not self._stopping and time.monotonic() < deadline:
            waiting = [child for child in waiting if not child.becomes_ready(0.2)]
            if any(child.is_dead() for child in waiting):
                return False
        return not waiting

    def _check_clock(self) -> None:
        error = clock.error()
        if abs(error - self._clock_error) > CLOCK_ERROR:
            self._clock_error = error
            log.warning(
                "this machine's clock was set; the service keeps its own time until a restart",
                seconds=round(error),
            )


def _stop(children: Sequence[ChildProcess]) -> None:
    """Drain the children, and kill those that do not end in time."""
    deadline = time.monotonic() + DRAIN_TIMEOUT
    for child in children:
        child.terminate()
    for child in children:
        child.reap(deadline)


def _check_packages() -> None:
    """Exit with 2 if a package that the web application imports is not installed.

    Another start would fail too. The children that run are stopped at the exit.
    """
    try:
        import_module("receiver.web")
    except ModuleNotFoundError as error:
        print(  # noqa: T201 - for the person who starts the service
            f"the Python package {error.name} is not installed: install this release with its "
            "dependencies, then start it again",
            file=sys.stderr,
        )
        sys.exit(_WRONG_CONFIGURATION)


def main() -> None:
    """Run the supervisor; ``become_supervisor`` gives it its arguments."""
    number, log_level, log_format, *forked = sys.argv[1:]
    logs.configure(log_level, cast("LogFormat", log_format), secrets=())  # it logs no settings
    with socket.socket(fileno=int(number)) as listener:
        listener.set_inheritable(False)  # only the web inherits it
        gc.freeze()
        _Supervisor(listener, forked).run()


if __name__ == "__main__":
    main()
