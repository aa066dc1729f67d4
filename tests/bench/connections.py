"""Measure: what connections cost that send no request, or only a part of one.

Authentic callbacks come at a steady rate, first alone, then while another process holds silent
connections, connections with half a head, and with half a body behind a forged and behind a valid
ticket (``holder``). Without a proxy, on loopback.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from receiver.model import new_ref
from receiver.services import Services
from receiver.settings import Settings
from tests.bench.flood import send
from tests.bench.measurements import MS, Amount, Line
from tests.bench.processes import ROOT, environment, gunicorn

SILENT, HALF_HEADS, HALF_BODIES = 1000, 500, 500
# Authentic callbacks a second.
PACE = 100


def measure(folder: Path, amount: Amount) -> list[Line]:
    """Run rounds of ``each`` authentic callbacks without and with the connections.

    Raise RuntimeError if one of them is not acknowledged.
    """
    env = environment(folder / "receiver")
    services = Services(Settings.load(env)).open()
    alone: list[float] = []
    beside: list[float] = []
    with gunicorn("receiver.web:create_app()", env, folder / "receiver.log") as server:
        send(server.port, services, PACE)  # warms up
        for _ in amount:
            alone.append(send(server.port, services, amount.each))
            with held(server.port, _kinds(services), folder / "held.json"):
                beside.append(send(server.port, services, amount.each))
    services.close()
    return [
        Line(
            f"p99 beside {SILENT} silent, {HALF_HEADS} half-head, {HALF_BODIES} half-body",
            "ms",
            [MS * one for one in beside],
            [MS * one for one in alone],
        )
    ]


def _kinds(services: Services) -> list[tuple[int, str]]:
    """Return how many connections are held, and what is sent on them."""
    valid = services.tickets.sign(new_ref(time.time()))
    forged = f"{new_ref(time.time())}.{'A' * 43}"
    head = "POST /callback/{} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
    return [
        (SILENT, ""),
        (HALF_HEADS, head.format(forged)),
        (HALF_BODIES // 2, head.format(forged) + '\r\n{"id":'),
        (HALF_BODIES // 2, head.format(valid) + '\r\n{"id":'),
    ]


@contextmanager
def held(port: int, kinds: list[tuple[int, str]], file: Path) -> Iterator[None]:
    """Hold connections by another process during the block."""
    file.write_text(json.dumps(kinds))
    command = [sys.executable, "-m", "tests.bench.holder", str(port), str(file)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"begun\n":
                raise RuntimeError("the connections cannot be opened")
            yield
        finally:
            process.communicate(timeout=60)
