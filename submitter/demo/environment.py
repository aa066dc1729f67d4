"""The processes of the demo: the sandbox and ``receiver serve``, started as a user would do it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import requests

from receiver.errors import ReceiverError
from receiver.settings import Settings

# Seconds a process may take to start, and to stop.
START_TIMEOUT = 30.0


@dataclass(slots=True)
class Environment:
    """The environment variables of the demo's commands, and the processes started so far."""

    environ: dict[str, str]
    logs: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *arguments: str) -> Path:
        """Start ``python -m …`` with its output in a log file; return the path of the log."""
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{name}.log"
        with log.open("wb") as output:
            command = [sys.executable, "-m", *arguments]
            # A new session, so that Ctrl-C reaches only the demo, which then stops them.
            self.processes[name] = subprocess.Popen(
                command,
                env=self.environ,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        return log

    def wait_for(self, name: str, ready: str) -> None:
        """Wait until a URL answers 200; if not, raise ReceiverError with the end of the log."""
        end = time.monotonic() + START_TIMEOUT
        while time.monotonic() < end and self.processes[name].poll() is None:
            try:
                if requests.get(ready, timeout=5).ok:
                    return
            except requests.RequestException:
                pass  # not listening yet
            time.sleep(0.1)
        tail = (self.logs / f"{name}.log").read_text(errors="replace")[-2000:]
        raise ReceiverError(f"{name} did not start; its log ends with: {tail}")

    def stop(self) -> None:
        """Stop the processes, the service before the sandbox, and wait until they have ended."""
        for process in reversed(self.processes.values()):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(START_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """Return a free port of 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def sandbox_environ(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the environment without settings of the service: the demo shows the defaults."""
    settings = {
        f"{name.upper()}{suffix}" for name in Settings.model_fields for suffix in ("", "_FILE")
    }
    kept = {name: value for name, value in environ.items() if name not in settings}
    return {**kept, "DATA_DIR": str(folder), "PYTHONUNBUFFERED": "1"}


def live_environ(folder: Path) -> dict[str, str]:
    """Return the environment for the real API: unchanged, but with the demo's own DATA_DIR."""
    return {**os.environ, "DATA_DIR": str(folder), "PYTHONUNBUFFERED": "1"}
