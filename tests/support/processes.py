"""Commands as real processes: a clean environment, their output in a file, all ended by pid."""

import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

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

    process: subprocess.Popen[bytes]
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
        return {pid: line for pid in _pids() if (line := _line_if_marked(pid, self.mark))}

    def stop(self, number: signal.Signals = signal.SIGTERM, *, within: float = LIMIT) -> int:
        """Send the command a signal and return its exit status; wait until no process is left."""
        self.process.send_signal(number)
        status = self.process.wait(within)
        until(lambda: not self.members(), within=within, what="the end of all its processes")
        return status

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
    with log.open("wb") as output:
        process = subprocess.Popen(
            _found(command),
            env={**environment(environ), _MARK: mark},
            cwd=folder,
            stdin=subprocess.DEVNULL,
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
    done = subprocess.run(
        _found(command),
        env=environment(environ),
        cwd=folder,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


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


def _line_if_marked(pid: int, mark: str) -> str:
    """Return the command line of a living process with this mark, else an empty text."""
    with suppress(OSError):
        if f"{_MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes():
            return (
                Path(f"/proc/{pid}/cmdline")
                .read_text(encoding="utf-8", errors="replace")
                .replace("\0", " ")
                .strip()
            )
    return ""
