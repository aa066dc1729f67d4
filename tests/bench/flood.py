"""Measure 5: what a flood of forged callbacks costs the authentic ones.

Authentic callbacks come at a steady rate, first alone, then during a flood of unsigned tickets
(404) or of bodies with a too large Content-Length (413). Every authentic one must be answered 200.
Server, flood and senders share the machine's cores, so the results are a lower bound.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from receiver.model import new_ref
from receiver.services import Services
from receiver.settings import Settings
from tests.bench.callbacks import callback_request
from tests.bench.jobs import waiting_jobs
from tests.bench.load import Connection
from tests.bench.measurements import MS, Amount, Line, percentile
from tests.bench.processes import ROOT, environment, gunicorn

# Authentic callbacks a second, and connections they come over.
PACE, SENDERS = 100, 4
# Connections of the flood, and how many requests a second it tries.
WIDTH, FLOOD = 16, 500
_DIFFERENT = 500  # requests of a flood, sent in turn


def measure(folder: Path, amount: Amount) -> list[Line]:
    """Run rounds of ``each`` authentic callbacks without and with each flood.

    Raise RuntimeError if one of them is not acknowledged.
    """
    env = environment(folder / "receiver")
    services = Services(Settings.load(env)).open()
    floods = {"404": _forged(), "413": _too_large(services)}
    alone: list[float] = []
    p99: dict[str, list[float]] = {name: [] for name in floods}
    refused: dict[str, list[float]] = {name: [] for name in floods}
    with gunicorn("receiver.web:create_app()", env, folder / "receiver.log") as server:
        port = server.port
        send(port, services, PACE)  # warms up
        for _ in amount:
            alone.append(send(port, services, amount.each))
            for name, requests in floods.items():
                with flood(port, requests, folder / f"flood-{name}", WIDTH, FLOOD) as seen:
                    p99[name].append(send(port, services, amount.each))
                refused[name].append(rate(seen, {name}))
    services.close()
    return [line for name in floods for line in _lines(name, refused[name], p99[name], alone)]


def _lines(name: str, refused: list[float], p99: list[float], alone: list[float]) -> list[Line]:
    return [
        Line(f"refused with {name}, of {FLOOD} tried", "1/s", refused, [FLOOD] * len(refused)),
        Line(
            "… p99 of authentic callbacks meanwhile",
            "ms",
            [MS * one for one in p99],
            [MS * one for one in alone],
        ),
    ]


def _forged() -> list[bytes]:
    """Make requests with different well-formed tickets whose signatures are wrong."""
    return [
        callback_request(f"{new_ref(time.time())}.{'A' * 43}", "forged") for _ in range(_DIFFERENT)
    ]


def _too_large(services: Services) -> list[bytes]:
    """Make requests with a valid ticket and a Content-Length that is too large, without a body."""
    ticket, size = (
        services.tickets.sign(new_ref(time.time())),
        services.settings.callback_max_bytes + 1,
    )
    lines = [
        f"POST /callback/{ticket} HTTP/1.1",
        "Host: 127.0.0.1",
        "Connection: close",
        f"Content-Length: {size}",
        "",
        "",
    ]
    return ["\r\n".join(lines).encode()]


@contextmanager
def flood(
    port: int, requests: list[bytes], file: Path, width: int, pace: int
) -> Iterator[dict[str, object]]:
    """Send the server ``pace`` requests a second over ``width`` connections during the block.

    The requests, all of one length, are sent in turn. What was seen is in the dict afterwards.
    """
    file.write_bytes(b"".join(requests))
    command = [sys.executable, "-m", "tests.bench.flooder"]
    command += [str(port), str(file), str(len(requests[0])), str(width), str(pace)]
    seen: dict[str, object] = {}
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield seen
        finally:
            out, _ = process.communicate(timeout=60)
        seen.update(json.loads(out))


def rate(seen: dict[str, object], expected: set[str]) -> float:
    """Return the answers per second; raise RuntimeError if there were others than expected."""
    statuses, seconds = seen["statuses"], seen["seconds"]
    if (
        not isinstance(statuses, dict)
        or not isinstance(seconds, float)
        or not set(statuses) <= expected
    ):
        raise RuntimeError(f"answers are to be {sorted(expected)}, not {statuses}")
    return float(sum(statuses.values()) / seconds)


def send(port: int, services: Services, amount: int) -> float:
    """Send authentic callbacks at our pace; return the 99th percentile of their seconds."""
    refs = waiting_jobs(services, amount)
    requests = [callback_request(services.tickets.sign(ref), ref) for ref in refs]
    latencies: list[float] = []
    failures: list[str] = []

    def send(mine: list[bytes]) -> None:
        connection, due = Connection(port), time.monotonic()
        for one in mine:
            time.sleep(max(0.0, due - time.monotonic()))
            due += SENDERS / PACE
            connection.send(0, memoryview(one))
            while (status := connection.receive()) is None:
                pass
            latencies.append(time.perf_counter() - connection.sent_at)
            if status != 200:
                failures.append(str(status))
        connection.socket.close()

    threads = [
        threading.Thread(target=send, args=(requests[number::SENDERS],))
        for number in range(SENDERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures or len(latencies) != amount:
        raise RuntimeError(
            f"{len(latencies)} of {amount} authentic callbacks answered,"
            f" not acknowledged: {failures}"
        )
    return percentile(latencies, 0.99)
