"""Starts our commands as forks of a process that has imported what they import.

Tests start hundreds of commands, and most of the processor time of a start are imports. A fork has
its own session, environment, folder and files, and ends as every program does. What an interpreter
reads only once (the variables of Python, the locale) is that of the server, so commands with other
ones are started in full.

The processes of pytest-xdist share one server: the first that needs it starts it, and it ends with
the last of them.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from waiting import until

LIBRARIES = (
    *("alembic", "boto3", "botocore", "click", "cryptography", "flask", "flask_wtf", "gunicorn"),
    *("idna", "itsdangerous", "jinja2", "psycopg", "pydantic", "prometheus_client", "requests"),
    *("rich", "setproctitle", "sqlalchemy", "standardwebhooks", "structlog", "ulid", "urllib3"),
    *("werkzeug", "wtforms"),
)
# Our own code, which reads no environment when it is imported; only receiver.gunicorn_conf does.
OUR_CODE = (
    *("receiver.cli.serve", "receiver.cli.worker", "receiver.services", "receiver.web"),
    *("submitter.batch.command", "submitter.cli.submit"),
)
# The commands that may be forks: where their function is. Python itself runs ``-c`` or a file.
PROGRAMS = {
    "python": ("fork_server", "run_python"),
    "gunicorn": ("gunicorn.app.wsgiapp", "run"),
    "receiver": ("receiver.cli", "main"),
    "submitter": ("submitter.cli", "main"),
}
_READ_ONCE = ("PYTHON", "LANG", "LC_", "LD_", "TZ")
_MAX_MESSAGE = 100_000  # bytes of a command with its environment
_FIRST_CLIENT_WITHIN = 60.0  # seconds; the process that has started the server may have been killed
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
    """The server, as seen from the tests."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._read_once = _read_once(environ)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        address = _address()
        if not self._connects(address):
            self._process = _start_server(address, environ)
            until(lambda: self._connects(address), what="that the fork server listens")
        atexit.register(self.close)

    def _connects(self, address: str) -> bool:
        if self._process and self._process.poll():
            raise RuntimeError("the fork server ended, its error is above")
        with suppress(ConnectionRefusedError):
            self._channel.connect(address)
            return True
        return False

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
        """Let the server end when no process of the tests needs it any more."""
        self._channel.close()
        if self._process:
            self._process.wait()


def _address() -> str:
    """Return the server's address, which exists for this run of the tests only."""
    return f"\0receiver-tests-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"


def _start_server(address: str, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a server; it ends at once if another process has started one."""
    fits = {*sys.stdlib_module_names, *LIBRARIES}
    modules = [name for name in sorted(sys.modules) if name.partition(".")[0] in fits]
    process = subprocess.Popen(
        [sys.executable, __file__, address[1:], _TITLE_ROOM],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdin is not None
    with process.stdin, suppress(BrokenPipeError):
        process.stdin.write(" ".join(modules).encode())
    return process


def _read_once(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: environ[name] for name in environ if name.startswith(_READ_ONCE)}


# In the server's process.


def main() -> None:
    """Run the server; in a fork, run the command."""
    # First, because it does not find the place of the title once the environment has changed.
    importlib.import_module("setproctitle").getproctitle()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        try:
            listener.bind(f"\0{sys.argv[1]}")
        except OSError:  # another process has started a server
            return
        listener.listen()
        for name in sys.stdin.read().split():
            with suppress(ImportError):
                importlib.import_module(name)
        for name in OUR_CODE:
            importlib.import_module(name)
        gc.freeze()  # the collector would write to every object, and undo the sharing of memory
        asked = _serve(listener)
    if asked:
        _become(*asked)


def _serve(listener: socket.socket) -> tuple[list[int], bytes] | None:
    """Fork for each request until no process of the tests is left (return None).

    In a fork return its files (stdin, stdout, stderr) and what was requested.
    """
    clients: list[socket.socket] = []
    statuses: dict[int, socket.socket] = {}
    until_first_client = _FIRST_CLIENT_WITHIN
    woken, wakes = socket.socketpair()
    for end in (woken, wakes):
        end.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno())
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    while ready := _readable([listener, woken, *clients], None if clients else until_first_client):
        if woken in ready:
            woken.recv(1000)
            _report_ends(statuses)
        if listener in ready:
            clients.append(listener.accept()[0])
            until_first_client = 0.0
        for client in [one for one in clients if one in ready]:
            message, fds, _, _ = socket.recv_fds(client, _MAX_MESSAGE, 4)
            if not message:
                clients.remove(client)
                client.close()
            elif _forked(statuses, fds):
                for opened in (listener, woken, wakes, *clients):
                    opened.close()
                return fds[1:], message
    return None


def _readable(sockets: list[socket.socket], timeout: float | None) -> list[socket.socket]:
    return select.select(sockets, [], [], timeout)[0]


def _forked(statuses: dict[int, socket.socket], fds: list[int]) -> bool:
    """Fork; return whether this is the fork. ``fds`` are the socket of its status and its files."""
    status = socket.socket(fileno=fds[0])
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for opened in (status, *statuses.values()):
            opened.close()
        return True
    statuses[pid] = status
    status.send(str(pid).encode())
    for fd in fds[1:]:
        os.close(fd)
    return False


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
    if config := sys.modules.get("gunicorn.config"):  # it asked for the folder when it was imported
        config.Chdir.default = folder
    os.umask(umask)
    sys.argv = command
    setproctitle.setproctitle(" ".join([sys.executable, *command]))
    _let_metrics_be_shared()
    module, function = PROGRAMS[Path(command[0]).name]
    sys.exit(getattr(importlib.import_module(module), function)())


def run_python() -> None:
    """Do what ``python -c CODE ARGUMENT…`` and ``python FILE ARGUMENT…`` do."""
    del sys.argv[0]
    if sys.argv[0] == "-c":
        code = compile(sys.argv.pop(1), "<string>", "exec")
        exec(code, {"__name__": "__main__"})  # noqa: S102 - the program of a test
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


def _let_metrics_be_shared() -> None:
    """Let ``metric_files.share`` apply to the metrics that the server has created already.

    A metric decides when it is created whether it is shared.
    """
    from prometheus_client import REGISTRY  # noqa: PLC0415 - as above
    from prometheus_client.metrics import MetricWrapperBase  # noqa: PLC0415

    from receiver.telemetry import metric_files  # noqa: PLC0415

    original = metric_files.share

    def share(data_dir: Path) -> None:
        metric_files.share = original
        original(data_dir)
        for metric in set(REGISTRY._names_to_collectors.values()):
            if isinstance(metric, MetricWrapperBase):
                for one in metric._metrics.values() if metric._labelnames else [metric]:
                    one._metric_init()  # type: ignore[no-untyped-call]  # the package is only partly typed

    metric_files.share = share


if __name__ == "__main__":
    main()
