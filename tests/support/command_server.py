"""Runs commands in forks of one process that has imported everything: 20 ms each instead of 600.

``CommandServer`` is the side of the tests. Run as a program, this file is the server: it reads
requests from file descriptor 0, each a JSON object with four descriptors (the command's stdin,
stdout, stderr, and a pipe for its pid and its exit status). A command is a process of its own, as
if started by its script; only the imports are already done. Not for ``serve`` and ``worker``: the
metrics of several processes depend on a variable that is read when ``prometheus_client`` is imported.
"""

import atexit
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any

_LARGEST_REQUEST = 100_000  # bytes
_IMPORTED = (
    *("receiver.cli", "receiver.cli.audit", "receiver.cli.doctor", "receiver.cli.events"),
    *("receiver.cli.jobs", "receiver.cli.ledger", "receiver.services"),
    *("submitter.cli", "submitter.cli.submit", "submitter.cli.credits", "submitter.batch.command"),
)


@dataclass(frozen=True, slots=True)
class Command:
    """A command to run: its words, its whole environment and its working directory."""

    words: Sequence[str]
    environ: Mapping[str, str]
    folder: Path


class CommandServer:
    """The server's process, which lives as long as this one. Threads may share it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__], stdin=theirs.fileno(), env=environ, cwd="/"
            )
        atexit.register(self.close)

    def run(
        self,
        command: Command,
        stdin: IO[bytes],
        stdout: IO[bytes],
        stderr: IO[bytes],
        *,
        within: float,
    ) -> int:
        """Run a command and return its exit status. It is killed and TimeoutError raised if it takes longer than ``within`` seconds."""
        request = json.dumps([list(command.words), dict(command.environ), str(command.folder)])
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb", buffering=0) as report:
            try:
                files = [stdin.fileno(), stdout.fileno(), stderr.fileno(), writing]
                socket.send_fds(self._ours, [request.encode()], files)
            finally:
                os.close(writing)
            pid = int(report.readline())
            end = threading.Timer(within, os.kill, (pid, signal.SIGKILL))
            end.start()
            try:
                status = int(report.readline())
            finally:
                end.cancel()
        if status == -signal.SIGKILL:
            raise TimeoutError(f"{command.words} was killed, after {within:.0f} s at the latest")
        return status

    def close(self) -> None:
        """End the server."""
        atexit.unregister(self.close)
        self._ours.close()
        self._process.wait()


def serve(requests: socket.socket) -> None:
    """Serve until the tests' process ends."""
    for name in _IMPORTED:
        import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the forks
    while True:
        request, files, _, _ = socket.recv_fds(requests, _LARGEST_REQUEST, 4)
        if not request:
            return
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            watch(json.loads(request), files)
        for file in files:
            os.close(file)


def watch(request: list[Any], files: list[int]) -> None:
    """Run the command in a fork, and report its pid and its status."""
    words, environ, folder = request
    *standard, report = files
    pid = os.fork()
    if pid == 0:
        os.close(report)
        become(words, environ, folder, standard)
    os.write(report, f"{pid}\n".encode())
    _, ended = os.waitpid(pid, 0)
    os.write(report, f"{os.waitstatus_to_exitcode(ended)}\n".encode())
    os._exit(0)


def become(words: list[str], environ: dict[str, str], folder: str, standard: list[int]) -> None:
    """Be the command, from its script's first line to its exit."""
    for number, file in enumerate(standard):
        os.dup2(file, number)
    for file in {*standard} - {0, 1, 2}:
        os.close(file)
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace")
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = words
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status: object = 1
    try:
        import_module(f"{words[0]}.cli").main()
    except SystemExit as end:
        status = end.code
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
    if isinstance(status, str):
        sys.stderr.write(f"{status}\n")
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with ExitStack() as stack:
        stack.callback(sys.stderr.flush)
        stack.callback(sys.stdout.flush)
    os._exit(status if isinstance(status, int) else 0 if status is None else 1)


if __name__ == "__main__":
    serve(socket.socket(fileno=0))
