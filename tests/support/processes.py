"""Commands as real processes: a clean environment, their output in a file, all ended by pid.

In pytest our own commands are forks of a server that has imported what they import.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO

from fork_server import PROGRAMS, Child, ForkServer
from waiting import LIMIT, until

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]

# The only variables that are inherited: the developer's own must not configure the service.
_INHERITED = ("HOME", "LANG", "LC_ALL", "TMPDIR", "CI")
_MARK = "TEST_PROCESS_MARK"
# Every warning is an error but gunicorn's: it does not close its copy of an inherited socket.
_WARNINGS = "error,ignore::ResourceWarning:gunicorn.arbiter"


@dataclass(frozen=True, slots=True)
class Finished:
    """Exit status and output of a command that ended."""

    status: int
    out: str
    err: str


@dataclass(slots=True)
class Running:
    """A running command with all processes that it started."""

    process: subprocess.Popen[bytes] | Child
    log: Path
    mark: str = field(repr=False)

    @property
    def pid(self) -> int:
        """The command's own process id."""
        return self.process.pid

    def output(self) -> str:
        """Return what it has written so far to stdout and stderr."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def says(self, text: str, *, times: int = 1, within: float = LIMIT) -> None:
        """Wait until it has written this text ``times`` times."""

        def said() -> bool:
            if self.process.poll() is not None and self.output().count(text) < times:
                raise AssertionError(
                    f"it ended with {self.process.returncode} before it said {text!r}:\n"
                    f"{self.output()}"
                )
            return self.output().count(text) >= times

        until(said, within=within, what=f"that it says {text!r}")

    def members(self) -> dict[int, str]:
        """Return pid and command line of each of its living processes, orphans too."""
        return {pid: line for pid in _pids() if (line := self._line_of_member(pid))}

    def stop(self, number: signal.Signals = signal.SIGTERM, *, within: float = LIMIT) -> int:
        """Send the command a signal and return its exit status; wait until no process is left."""
        self.process.send_signal(number)
        status = self.process.wait(within)
        until(lambda: not self.members(), within=within, what="the end of all its processes")
        return status

    def _line_of_member(self, pid: int) -> str:
        """Return the command line of a living process of the command, else an empty text."""
        folder = Path(f"/proc/{pid}")
        with suppress(OSError):
            marked = f"{_MARK}={self.mark}".encode() in (folder / "environ").read_bytes()
            # A fork has the environment of its server there.
            if marked or _session(folder) == self.pid:
                line = (folder / "cmdline").read_text(encoding="utf-8", errors="replace")
                return line.replace("\0", " ").strip()
        return ""

    def kill(self) -> None:
        """Kill all its processes at once, as a power cut would."""
        for pid in self.members():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)  # so that no process starts another meanwhile
        while members := self.members():
            for pid in members:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.05)
        self.process.wait()


def environment(values: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a clean environment with these variables and our commands in the PATH."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {
        **inherited,
        "PATH": f"{BIN}:/usr/bin:/bin",
        "SPT_NOENV": "1",  # the titles of processes do not replace the mark in their environment
        "COLUMNS": "250",
        "PYTHONWARNINGS": _WARNINGS,
        **(values or {}),
    }


@contextmanager
def running(
    command: Sequence[str], environ: Mapping[str, str], folder: Path, *, lent: Sequence[int] = ()
) -> Iterator[Running]:
    """Start a command in ``folder``, where its output goes too; kill its processes at the end.

    ``lent`` are file descriptors that it may use.
    """
    mark = uuid.uuid4().hex
    log = folder / f"{Path(command[0]).name}-{mark[:8]}.log"
    variables = {**environment(environ), _MARK: mark}
    process: subprocess.Popen[bytes] | Child
    with log.open("wb") as output, Path(os.devnull).open("rb") as nothing:
        if server := _fork_server_for(command, variables, lent):
            files = [nothing.fileno(), output.fileno(), output.fileno()]
            process = server.start(_found(command), variables, folder, files)
        else:
            process = subprocess.Popen(
                _found(command),
                env=variables,
                cwd=folder,
                stdin=nothing,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=lent,
            )
    started = Running(process, log, mark)
    try:
        yield started
    finally:
        started.kill()


def run(
    command: Sequence[str],
    environ: Mapping[str, str],
    *,
    folder: Path,
    stdin: str = "",
    within: float = LIMIT,
) -> Finished:
    """Run a command to its end."""
    variables = environment(environ)
    if server := _fork_server_for(command, variables):
        return _run_forked(server, command, variables, folder, stdin, within)
    done = subprocess.run(
        _found(command),
        env=variables,
        cwd=folder,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@dataclass(slots=True)
class PythonProgram:
    """A program in Python that runs, with what it writes to stdout as a pipe."""

    process: subprocess.Popen[bytes] | Child
    stdout: IO[bytes]
    _errors: IO[bytes]

    def kill(self) -> None:
        """Kill it; it need not run any more."""
        self.process.send_signal(signal.SIGKILL)

    def ended(self, within: float = LIMIT) -> Finished:
        """Return its status and the rest of its output after its end."""
        out = self.stdout.read()
        status = self.process.wait(within)
        self._errors.seek(0)
        return Finished(status, out.decode(), self._errors.read().decode())


@contextmanager
def python(
    *arguments: str, environ: Mapping[str, str] | None = None, folder: Path = ROOT
) -> Iterator[PythonProgram]:
    """Run ``python -c CODE ARGUMENT…`` or ``python FILE ARGUMENT…``; kill it after the block."""
    command, environ = ("python", *arguments), environment(environ)
    reader, writer = os.pipe()
    with (
        os.fdopen(reader, "rb") as output,
        tempfile.TemporaryFile() as errors,
        Path(os.devnull).open("rb") as nothing,
    ):
        files = [nothing.fileno(), writer, errors.fileno()]
        process: subprocess.Popen[bytes] | Child
        if server := _fork_server_for(command, environ):
            process = server.start(_found(command), environ, folder, files)
        else:
            stdin, stdout, stderr = files
            process = subprocess.Popen(
                _found(command), stdin=stdin, stdout=stdout, stderr=stderr, env=environ, cwd=folder
            )
        os.close(writer)
        try:
            yield PythonProgram(process, output, errors)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


def _run_forked(  # the arguments of run
    server: ForkServer,
    command: Sequence[str],
    environ: Mapping[str, str],
    folder: Path,
    stdin: str,
    within: float,
) -> Finished:
    with (
        tempfile.TemporaryFile("w+") as given,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
    ):
        given.write(stdin)
        given.seek(0)
        files = [file.fileno() for file in (given, out, err)]
        child = server.start(_found(command), environ, folder, files)
        try:
            child.wait(within)
        finally:
            child.send_signal(signal.SIGKILL)
            status = child.wait()
        for file in (out, err):
            file.seek(0)
        return Finished(status, out.read(), err.read())


@cache
def _fork_server() -> ForkServer:
    return ForkServer(environment())


def _fork_server_for(
    command: Sequence[str], environ: Mapping[str, str], lent: Sequence[int] = ()
) -> ForkServer | None:
    """Return the server if it can start this command: in pytest, without files that are lent."""
    if command[0] not in PROGRAMS or lent or "PYTEST_VERSION" not in os.environ:
        return None
    return server if (server := _fork_server()).can_start(environ) else None


def free_port() -> int:
    """Return a free port, below those that the system gives to outgoing connections."""
    while True:
        port = 10_000 + uuid.uuid4().int % 20_000
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _found(command: Sequence[str]) -> list[str]:
    return [str(BIN / command[0]), *command[1:]]


def _pids() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def _session(folder: Path) -> int:
    """Return the session of a process; the first command of a session has its number."""
    return int((folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[3])
