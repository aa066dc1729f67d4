"""Measure 1: callbacks acknowledged per second, compared with a route that does nothing.

Each callback is of another job and durable. Two gunicorns as deployed (two processes of 16 threads)
answer the same requests in turn. Afterwards every acknowledged callback must be in the ledger.
"""

import json
import subprocess
import sys
from pathlib import Path

from sqlalchemy import select

from receiver.ledger.tables import assets, deliveries, jobs
from receiver.model import AssetState, Decision, JobState
from receiver.services import Services
from receiver.settings import Settings
from tests.bench.figures import MS, Amount, Line, Round, percentile
from tests.bench.jobs import waiting_jobs
from tests.bench.processes import ROOT, environment, gunicorn

CONNECTIONS = 32
BODY = 350  # bytes


def measure(folder: Path, amount: Amount) -> list[Line]:
    """Send callbacks in rounds; raise RuntimeError if an acknowledged one is not stored."""
    ours, its = environment(folder / "receiver"), environment(folder / "noop")
    services = Services(Settings.load(ours)).open()
    seen: dict[str, list[Round]] = {"ours": [], "its": []}
    stored: list[str] = []
    with (
        gunicorn("receiver.web:create_app()", ours, folder / "receiver.log") as port,
        gunicorn("tests.bench.noop:create_app()", its, folder / "noop.log") as noop_port,
    ):
        turns = (("its", noop_port), ("ours", port))
        for number, each in enumerate([16 * CONNECTIONS, *(amount.each for _ in amount)]):
            refs = waiting_jobs(services, each)
            requests = [callback_request(services.tickets.sign(ref), ref) for ref in refs]
            for name, where in turns:
                result, acknowledged = _send(where, requests, folder / "requests")
                seen[name] += [result] if number else []  # the first round warms up
            stored += [refs[place] for place in acknowledged]
    _check(services, stored)
    services.close()
    return _lines(seen["ours"], seen["its"])


def callback_request(ticket: str, ref: str) -> bytes:
    """Make the whole request of one success; all are of one length."""
    task = {
        "id": f"task-{ref}",
        "url": "",
        "progress": 100,
        "status": "succeeded",
        "width": 1024,
        "height": 1024,
    }
    result = {"url": f"http://127.0.0.1/file/{ref}-.png", "width": 1024, "height": 1024}
    body = json.dumps({**task, "results": [result], "failure_reason": "", "error": ""})
    body = body.replace("-.png", f"-{'x' * (BODY - len(body))}.png")
    head = (
        f"POST /callback/{ticket} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return (head + body).encode()


def _send(port: int, requests: list[bytes], file: Path) -> tuple[Round, list[int]]:
    """Send the requests with the load generator; return its results and what was answered 200."""
    file.write_bytes(b"".join(requests))
    command = [
        sys.executable,
        "-m",
        "tests.bench.load",
        str(port),
        str(file),
        str(len(requests[0])),
        str(CONNECTIONS),
    ]
    seen = json.loads(
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=120).stdout
    )
    if set(seen["statuses"]) != {"200"}:
        raise RuntimeError(f"not every callback was acknowledged: {seen['statuses']}")
    latencies = seen["latencies"]
    return Round(
        len(requests) / seen["seconds"], percentile(latencies, 0.5), percentile(latencies, 0.99)
    ), seen["acknowledged"]


def _check(services: Services, acknowledged: list[str]) -> None:
    """Find delivery, job and asset of every acknowledged callback in the ledger."""
    whole = (
        select(jobs.c.ref)
        .join(deliveries, deliveries.c.ref == jobs.c.ref)
        .join(assets, assets.c.ref == jobs.c.ref)
        .where(
            jobs.c.state == JobState.ARCHIVING,
            deliveries.c.verdict == Decision.ENDED,
            assets.c.state == AssetState.PENDING,
        )
    )
    found = services.database.read(lambda connection: list(connection.execute(whole).scalars()))
    if sorted(found) != sorted(acknowledged):
        lost = len(set(acknowledged) - set(found))
        raise RuntimeError(
            f"{len(acknowledged)} callbacks acknowledged, {len(found)} stored,"
            f" {lost} of the acknowledged ones lost"
        )
    if not services.totals.audit().ok:
        raise RuntimeError("the ledger's laws do not hold after the load")


def _lines(ours: list[Round], its: list[Round]) -> list[Line]:
    return [
        Line(
            "acknowledged callbacks", "1/s", [one.rate for one in ours], [one.rate for one in its]
        ),
        Line("… p50", "ms", [one.p50 * MS for one in ours], [one.p50 * MS for one in its]),
        Line("… p99", "ms", [one.p99 * MS for one in ours], [one.p99 * MS for one in its]),
    ]
