"""Commands as processes of their own: started with an environment, their output in a file, ended by pid, and nothing left of them."""

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

# All that is taken over from whoever runs the tests: nothing of theirs may configure the service.
_INHERITED = ("HOME", "LANG", "LC_ALL", "TMPDIR", "CI")
_MARK = "TEST_PROCESS_MARK"
# Every warning is an error but gunicorn's own: it looks at a socket that was lent to it through a copy it does not close.
_WARNINGS = "error,ignore::ResourceWarning:gunicorn.arbiter"


@dataclass(frozen=True, slots=True)
class Finished:
    """What a command that ended by itself said."""

    status: int
    out: str
    err: str


@dataclass(slots=True)
class Running:
    """A command under way, with all that it has started."""

    process: subprocess.Popen[bytes]
    log: Path
    mark: str = field(repr=False)

    @property
    def pid(self) -> int:
        """The command's own process id."""
        return self.process.pid

    def output(self) -> str:
        """Return what it has written so far, to stdout and stderr alike."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def says(self, text: str, *, times: int = 1, within: float = LIMIT) -> None:
        """Wait until it has written this text so often."""

        def said() -> bool:
            if self.process.poll() is not None and self.output().count(text) < times:
                raise AssertionError(
                    f"it ended with {self.process.returncode} before it said {text!r}:\n{self.output()}"
                )
            return self.output().count(text) >= times

        until(said, within=within, what=f"that it says {text!r}")

    def members(self) -> dict[int, str]:
        """Return the pids of all that lives of it, orphans too, with their command lines."""
        return {pid: line for pid in _pids() if (line := _line_if_marked(pid, self.mark))}

    def stop(self, number: signal.Signals = signal.SIGTERM, *, within: float = LIMIT) -> int:
        """Send the command a signal and return its exit status; nothing of it may live on."""
        self.process.send_signal(number)
        status = self.process.wait(within)
        until(lambda: not self.members(), within=within, what="that nothing of it lives on")
        return status

    def kill(self) -> None:
        """End all of it at once, as a power cut would."""
        for pid in self.members():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)  # so that nobody starts anybody again meanwhile
        while members := self.members():
            for pid in members:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.05)
        self.process.wait()


def environment(values: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a clean environment with these variables, in which our commands are found."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {
        **inherited,
        "PATH": f"{BIN}:/usr/bin:/bin",
        "COLUMNS": "250",
        "PYTHONWARNINGS": _WARNINGS,
        **(values or {}),
    }


@contextmanager
def running(
    command: Sequence[str], environ: Mapping[str, str], folder: Path, *, lent: Sequence[int] = ()
) -> Iterator[Running]:
    """Start a command in ``folder``, where its output goes too; whatever is left of it at the end is killed.

    ``lent`` are descriptors of ours that it may use.
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
    """Find a port nobody listens on, below those the system gives to outgoing connections."""
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
    """Return the command line of a living process that was started under this mark, else nothing."""
    with suppress(OSError):
        if f"{_MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes():
            return (
                Path(f"/proc/{pid}/cmdline")
                .read_text(encoding="utf-8", errors="replace")
                .replace("\0", " ")
                .strip()
            )
    return ""
