"""Starts the service's own processes as they are deployed, on 127.0.0.1, and ends them."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import requests
from sqlalchemy import text

from receiver.services import Services
from receiver.settings import Settings

ROOT = Path(__file__).resolve().parents[2]

_START_WITHIN = 30.0  # seconds
_STOP_WITHIN = 15.0


def environment(data: Path, **settings: str) -> dict[str, str]:
    """Return a clean environment of a receiver that keeps everything in ``data``."""
    ours = {field.upper() for field in Settings.model_fields}
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.removesuffix("_FILE") not in ours and not name.startswith("AWS_")
    }
    return {
        **kept,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests/support'}",
        "DATA_DIR": str(data),
        "LOG_FORMAT": "json",
        **settings,
    }


def free_port() -> int:
    """Return a free port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str], env: Mapping[str, str], log: Path, is_ready: Callable[[], bool]
) -> Iterator[int]:
    """Run a Python command (``-m …``) and wait until it is ready; its output goes to ``log``."""
    line = [sys.executable, *command]
    if setpriv := shutil.which("setpriv"):  # then it ends with us even if we are killed
        line = [setpriv, "--pdeathsig", "TERM", *line]
    with log.open("ab") as output:
        process = subprocess.Popen(
            line, env=env, cwd=ROOT, stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
    try:
        deadline = time.monotonic() + _START_WITHIN
        while not is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"{' '.join(command)} did not start:\n{log.read_text(errors='replace')[-3000:]}"
                )
            time.sleep(0.02)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(_STOP_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: its port on 127.0.0.1 and the number of its first process."""

    port: int
    pid: int


@contextmanager
def redis(folder: Path) -> Iterator[Server]:
    """Run Redis, which writes every command to disk before it answers."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    command += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    with (folder / "redis.log").open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _START_WITHIN
        while not listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("redis-server did not start")
            time.sleep(0.02)
        yield Server(port, process.pid)
    finally:
        process.terminate()
        process.wait(_STOP_WITHIN)


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process, its living descendants and its ended children."""
    children: dict[int, list[int]] = {}
    times: dict[int, float] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            fields = entry.read_text().rpartition(")")[2].split()
            number = int(entry.parent.name)
            children.setdefault(int(fields[1]), []).append(number)
            times[number] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    found, total = [pid], 0.0
    while found:
        number = found.pop()
        total += times.get(number, 0.0)
        found += children.get(number, [])
    return total


@contextmanager
def gunicorn(app: str, env: Mapping[str, str], log: Path) -> Iterator[Server]:
    """Run an application under the receiver's gunicorn configuration."""
    port = free_port()
    command = [
        "-m",
        "gunicorn",
        "-c",
        "python:receiver.gunicorn_conf",
        "--bind",
        f"127.0.0.1:{port}",
        app,
    ]
    with running(command, env, log, lambda: answers(port)) as pid:
        yield Server(port, pid)


def postmaster(services: Services) -> int:
    """Return the number of PostgreSQL's first process."""
    query = text("SHOW data_directory")
    folder = services.database.read(lambda connection: connection.execute(query).scalar_one())
    return int(Path(folder, "postmaster.pid").read_text().split()[0])


def answers(port: int) -> bool:
    """Say whether a server is up."""
    with suppress(requests.RequestException):
        return requests.get(f"http://127.0.0.1:{port}/healthz", timeout=5).status_code == 200
    return False


def listens(port: int) -> bool:
    """Return whether a server accepts connections at ``port``."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
