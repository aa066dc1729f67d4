"""Deliveries as a provider may send them: repeated, reordered, early, never, unknown, in bursts."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256

from processes import ROOT, environment
from waiting import until

from tests.prove.environment import Environment, Play
from tests.prove.fault import Fault
from tests.prove.load import REPEATED
from tests.prove.recording_proxy import Acknowledgement

_BURST, _BURST_JOBS = 10_000, 100
_UNSIGNED = 8  # the limit of verified callbacks a minute


def _strangers(web_hook: Callable[[Environment], str], jobs: int = 30) -> Play:
    """Let the provider call about jobs that this machine has not posted."""

    def play(env: Environment) -> None:
        env.start_and_wait()
        for _ in range(jobs):
            env.strangers.post(
                web_hook(env), {"delay": env.random.uniform(0, 0.5), "callback": REPEATED}
            )
        until(lambda: _jobs(env) == jobs, within=60, what=f"that all {jobs} jobs are adopted")

    return play


def _jobs(env: Environment) -> int:
    with env.services() as services:
        return sum(services.totals.counts().values())


def _burst(env: Environment) -> None:
    """Send 10,000 callbacks over 32 connections: progress of 100 jobs, and the end of each."""
    env.start_and_wait()
    each = _BURST // _BURST_JOBS
    bodies: list[tuple[str, bytes]] = []
    for _ in range(_BURST_JOBS):
        task, path = env.strangers.post("-1", {"delay": 0}), env.strangers.ticket()
        queries = [
            {"id": task, "status": "running", "progress": number, "beat": number}
            for number in range(each - 1)
        ]
        until(lambda task=task: env.strangers.result(task)["status"] == "succeeded")  # type: ignore[misc]  # mypy infers no default's type
        bodies += [
            (path, json.dumps(report).encode()) for report in (*queries, env.strangers.result(task))
        ]
    env.random.shuffle(bodies)
    began = time.time()
    for place in _sent(env, bodies):
        path, body = bodies[place]
        ref = path.rpartition("/")[2].partition(".")[0]
        env.seen.acknowledged.append(
            Acknowledgement(ref, sha256(body).hexdigest(), began, time.time())
        )


def _sent(env: Environment, bodies: list[tuple[str, bytes]]) -> list[int]:
    """Send each body once; return the indexes of those answered 200."""
    longest = max(len(body) for _, body in bodies)
    file = env.folder / "burst"
    # All of one length, so that the sender finds each by its index; JSON ignores trailing blanks.
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
        str(env.installation.port),
        str(file),
        str(len(requests[0])),
        "32",
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), check=True, stdout=subprocess.PIPE, timeout=120
    )
    acknowledged: list[int] = json.loads(done.stdout)["acknowledged"]
    return acknowledged


def _own(env: Environment) -> str:
    return env.seen.url + env.strangers.ticket()


DELIVERIES = (
    Fault("duplicates at once", menu=({"callback": {"mode": "duplicate", "times": 8}},)),
    Fault("reversed order", menu=({"callback": "reorder"},)),
    Fault("contradiction", menu=({"callback": "contradiction"},)),
    Fault("before the answer", menu=({"callback": "early"},)),
    Fault("lost callbacks", menu=({"callback": "lost"},)),
    Fault("lost answers", menu=({"answer": "lost"},)),
    Fault("jobs of another machine", _strangers(_own)),
    Fault("without a ticket", _strangers(lambda env: f"{env.seen.url}/callback", jobs=_UNSIGNED)),
)
BURST = Fault("burst of 10,000", _burst, 25)
