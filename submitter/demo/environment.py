"""The processes of the demo: the sandbox and ``receiver serve``, started as a user would start them."""

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

# Seconds a process has to come up, and to go.
PATIENCE = 30.0


@dataclass(slots=True)
class Stage:
    """What runs for a demo: the environment of its commands and the processes started so far."""

    environ: dict[str, str]
    logs: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *arguments: str) -> Path:
        """Start ``python -m …`` with its output in a file of the logs folder, which is returned."""
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{name}.log"
        with log.open("wb") as output:
            command = [sys.executable, "-m", *arguments]
            # A session of its own: Ctrl-C in the terminal is for the demo, which then stops its processes in order.
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
        """Wait until a URL answers 200; raise ReceiverError with the process's last words if it does not."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.processes[name].poll() is None:
            try:
                if requests.get(ready, timeout=5).ok:
                    return
            except requests.RequestException:
                pass  # not listening yet
            time.sleep(0.1)
        words = (self.logs / f"{name}.log").read_text(errors="replace")[-2000:]
        raise ReceiverError(f"{name} did not come up; its log ends with:\n{words}")

    def stop(self) -> None:
        """Stop what was started, the service before its provider, and wait until it is gone."""
        for process in reversed(self.processes.values()):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def own_environ(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the environment without any setting of the service, so that the demo shows the embedded default in its own folder."""
    settings = {
        f"{name.upper()}{suffix}" for name in Settings.model_fields for suffix in ("", "_FILE")
    }
    kept = {name: value for name, value in environ.items() if name not in settings}
    return {**kept, "DATA_DIR": str(folder), "PYTHONUNBUFFERED": "1"}


def live_environ(folder: Path) -> dict[str, str]:
    """Return the environment of a demo against the real API: as it is, but with the demo's own folder."""
    return {**os.environ, "DATA_DIR": str(folder), "PYTHONUNBUFFERED": "1"}
