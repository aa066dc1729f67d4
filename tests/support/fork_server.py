"""Starts our commands as forks of a process that has imported the libraries which they import.

Hundreds of tests start commands, and three quarters of the processor time of a start are imports
of libraries. A fork has its own session, environment, folder and files, imports all of our own
code itself, and ends as every program does. What an interpreter reads only once (the variables of
Python, the locale) is that of the server, so commands with other ones are started in full.
"""

import atexit
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

LIBRARIES = (
    *("alembic", "boto3", "botocore", "click", "cryptography", "flask", "flask_wtf", "gunicorn"),
    *("idna", "itsdangerous", "jinja2", "psycopg", "pydantic", "prometheus_client", "requests"),
    *("rich", "setproctitle", "sqlalchemy", "standardwebhooks", "structlog", "ulid", "urllib3"),
    *("werkzeug", "wtforms"),
)
_READ_ONCE = ("PYTHON", "LANG", "LC_", "LD_", "TZ")
_MAX_MESSAGE = 100_000  # bytes of a command with its environment
_TITLE_ROOM = "x" * 400  # the title of a process has the place of its arguments


class Child:
    """A command that the server has started, with the methods of ``subprocess.Popen``."""

    def __init__(self, status: socket.socket, args: Sequence[str]) -> None:
        self._status = status
        self.args = args
        self.pid = int(status.recv(64))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status; raise subprocess.TimeoutExpired if it still runs."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = int(self._status.recv(64))
            self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


class ForkServer:
    """The server, as seen from the tests. It ends with their process."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._read_once = _read_once(environ)
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        fits = {*sys.stdlib_module_names, *LIBRARIES}
        modules = [name for name in sorted(sys.modules) if name.partition(".")[0] in fits]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), _TITLE_ROOM],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[theirs.fileno()],
            )
        self._channel.send(" ".join(modules).encode())
        atexit.register(self.close)

    def can_start(self, environ: Mapping[str, str]) -> bool:
        """Return whether a command with this environment may be a fork."""
        return _read_once(environ) == self._read_once

    def start(
        self, command: Sequence[str], environ: Mapping[str, str], folder: Path, files: Sequence[int]
    ) -> Child:
        """Start a command; ``files`` are its stdin, stdout and stderr."""
        umask = os.umask(0o022)
        os.umask(umask)
        asked = json.dumps([[*command], {**environ}, str(folder), umask]).encode()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._lock:
            socket.send_fds(self._channel, [asked], [theirs.fileno(), *files])
        return Child(ours, command)

    def close(self) -> None:
        """End the server."""
        self._channel.close()
        self._process.wait()


def _read_once(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: environ[name] for name in environ if name.startswith(_READ_ONCE)}


# In the server's process.


def main() -> None:
    """Be the server; in a fork, be the command."""
    # First, because it does not find the place of the title once the environment has changed.
    importlib.import_module("setproctitle").getproctitle()
    channel = socket.socket(fileno=int(sys.argv[1]))
    for name in channel.recv(_MAX_MESSAGE).decode().split():
        with suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()  # the collector would write to every object, and undo the sharing of memory
    if asked := _serve(channel):
        _become(*asked)


def _serve(channel: socket.socket) -> tuple[list[int], bytes] | None:
    """Fork for each request until the tests end (return None).

    In a fork return its files (stdin, stdout, stderr) and what was requested.
    """
    statuses: dict[int, socket.socket] = {}
    woken, wakes = os.pipe()
    for end in (woken, wakes):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    while True:
        ready, _, _ = select.select([channel.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 1000)
            _report_ends(statuses)
        if channel.fileno() not in ready:
            continue
        message, fds, _, _ = socket.recv_fds(channel, _MAX_MESSAGE, 4)
        if not message:
            return None
        if (pid := os.fork()) == 0:
            for opened in (channel, *statuses.values()):
                opened.close()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for fd in (woken, wakes, fds[0]):
                os.close(fd)
            return fds[1:], message
        statuses[pid] = socket.socket(fileno=fds[0])
        statuses[pid].send(str(pid).encode())
        for fd in fds[1:]:
            os.close(fd)


def _report_ends(statuses: dict[int, socket.socket]) -> None:
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            with statuses.pop(ended[0]) as status, suppress(OSError):  # no process waits for it
                status.send(str(os.waitstatus_to_exitcode(ended[1])).encode())


def _become(files: Sequence[int], asked: bytes) -> None:
    """Run the requested command in this process, which is a fork."""
    import setproctitle  # noqa: PLC0415 - the tests' process uses this module without it

    command, environ, folder, umask = json.loads(asked)
    os.setsid()
    for number, fd in enumerate(files):
        os.dup2(fd, number)
        os.close(fd)
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(folder)
    os.umask(umask)
    sys.argv = command
    setproctitle.setproctitle(" ".join([sys.executable, *command]))
    program = importlib.import_module(f"{Path(command[0]).name}.cli")
    sys.exit(program.main())


if __name__ == "__main__":
    main()
