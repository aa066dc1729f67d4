"""Deliveries as a provider may send them: too often, in the wrong order, too early, never, about jobs of others, ten thousand at once."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256

from processes import ROOT, environment
from waiting import until

from tests.prove.environment import Play, Stage
from tests.prove.fault import Fault
from tests.prove.load import REPEATED
from tests.prove.recording_proxy import Acknowledgement

_BURST, _BURST_JOBS = 10_000, 100
_UNSIGNED = 8  # of such only so many a minute are looked into


def _strangers(web_hook: Callable[[Stage], str], jobs: int = 30) -> Play:
    """Have the provider call about jobs that this machine has not posted."""

    def play(stage: Stage) -> None:
        stage.start_and_wait()
        for _ in range(jobs):
            stage.strangers.post(
                web_hook(stage), {"delay": stage.dice.uniform(0, 0.5), "callback": REPEATED}
            )
        until(lambda: _jobs(stage) == jobs, within=60, what=f"that all {jobs} jobs are adopted")

    return play


def _jobs(stage: Stage) -> int:
    with stage.services() as services:
        return sum(services.totals.counts().values())


def _burst(stage: Stage) -> None:
    """Send 10,000 callbacks over 32 connections: reports of progress about 100 jobs, and the end of each."""
    stage.start_and_wait()
    each = _BURST // _BURST_JOBS
    bodies: list[tuple[str, bytes]] = []
    for _ in range(_BURST_JOBS):
        task, path = stage.strangers.post("-1", {"delay": 0}), stage.strangers.ticket()
        queries = [
            {"id": task, "status": "running", "progress": number, "beat": number}
            for number in range(each - 1)
        ]
        until(lambda task=task: stage.strangers.result(task)["status"] == "succeeded")  # type: ignore[misc]  # mypy infers no default's type
        bodies += [
            (path, json.dumps(report).encode())
            for report in (*queries, stage.strangers.result(task))
        ]
    stage.dice.shuffle(bodies)
    began = time.time()
    for place in _sent(stage, bodies):
        path, body = bodies[place]
        ref = path.rpartition("/")[2].partition(".")[0]
        stage.seen.acknowledged.append(
            Acknowledgement(ref, sha256(body).hexdigest(), began, time.time())
        )


def _sent(stage: Stage, bodies: list[tuple[str, bytes]]) -> list[int]:
    """Send each body once; return the places of those answered 200."""
    longest = max(len(body) for _, body in bodies)
    file = stage.folder / "burst"
    # All of one length, so that the sender finds each by its place; blanks behind a JSON text mean nothing.
    padded = [(path, body.ljust(longest)) for path, body in bodies]
    bodies[:] = padded
    requests = [
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {longest}\r\n\r\n".encode() + body
        for path, body in padded
    ]
    file.write_bytes(b"".join(requests))
    command = [
        sys.executable,
        "-m",
        "tests.bench.load",
        str(stage.installation.port),
        str(file),
        str(len(requests[0])),
        "32",
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), check=True, stdout=subprocess.PIPE, timeout=120
    )
    acknowledged: list[int] = json.loads(done.stdout)["acknowledged"]
    return acknowledged


def _own(stage: Stage) -> str:
    return stage.seen.url + stage.strangers.ticket()


DELIVERIES = (
    Fault("duplicates at once", menu=({"callback": {"mode": "duplicate", "times": 8}},)),
    Fault("reversed order", menu=({"callback": "reorder"},)),
    Fault("contradiction", menu=({"callback": "contradiction"},)),
    Fault("before the answer", menu=({"callback": "early"},)),
    Fault("lost callbacks", menu=({"callback": "lost"},)),
    Fault("lost answers", menu=({"answer": "lost"},)),
    Fault("jobs of another machine", _strangers(_own)),
    Fault(
        "without a ticket", _strangers(lambda stage: f"{stage.seen.url}/callback", jobs=_UNSIGNED)
    ),
)
BURST = Fault("burst of 10,000", _burst, 25)
