"""Measure 3: the time of one job from its callback to its archived picture, without load.

The real ``receiver serve`` and the sandbox; one job at a time. The inside times are the ledger's:
callback stored (``ended_at``), asset archived, job archived. The outside time is from the sandbox's
callback to the API's answer ``archived``. Yardstick: a bare GET of the same file, with fsync.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from receiver.archive.manifest import manifest_key
from receiver.model import JobState, Mode, Submission
from receiver.services import Services
from receiver.settings import Settings
from submitter.sandbox import Sandbox
from tests.bench.measurements import MS, Amount, Line, percentile
from tests.bench.processes import answers, environment, free_port, running

SIZE = 300_000  # bytes of a picture
# The callback comes late, so that the sandbox has drawn the picture before it is asked for it.
_SCRIPT = {
    "delay": 0.02,
    "progress": 0,
    "bytes": SIZE,
    "callback": {"mode": "late", "seconds": 0.15},
}
_LIMIT = 20.0  # seconds for one job


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds one job took from its callback on, and the yardstick's."""

    fetched: float  # callback stored → asset archived
    concluded: float  # asset archived → job archived
    outside: float  # callback sent → the API says archived
    bare: float


def measure(folder: Path, amount: Amount) -> list[Line]:
    """Run jobs one after the other, each a round, after two that are not counted."""
    with Sandbox(looks=1) as sandbox, _served(folder, sandbox) as services:
        for _ in range(2):
            _one_job(services, sandbox, folder)
        times = [_one_job(services, sandbox, folder) for _ in amount]
    bare = [one.bare for one in times]
    return [
        *_lines("asset archived", [one.fetched for one in times], bare),
        *_lines("job archived after that", [one.concluded for one in times], bare),
        *_lines("seen from outside", [one.outside for one in times], bare),
    ]


@contextmanager
def _served(folder: Path, sandbox: Sandbox) -> Iterator[Services]:
    port = free_port()
    env = environment(
        folder / "receiver",
        PUBLIC_URL=f"http://127.0.0.1:{port}",
        GRSAI_BASE_URL=sandbox.url,
        GRSAI_API_KEY="any",
        FETCH_ALLOW=sandbox.url.removeprefix("http://"),
    )
    services = Services(Settings.load(env)).open()
    command = ["-m", "receiver", "serve", "--port", str(port)]
    with running(command, env, folder / "serve.log", lambda: answers(port)):
        yield services
    services.close()


def _one_job(services: Services, sandbox: Sandbox, folder: Path) -> Times:
    """Submit a job, wait for its manifest and the API's answer, and return the times."""
    submitted = services.submit_service.submit(
        Submission("a lighthouse", "gpt-image-1.5", {"sandbox": _SCRIPT}, Mode.WEBHOOK)
    )
    ref, task = submitted.ref, submitted.provider_id or ""
    _wait(lambda: bool(sandbox.task(task)["files"]))  # asking for them has them drawn
    manifest = services.settings.data_dir / "archive" / manifest_key(ref)
    address, headers = (
        f"{services.settings.public_url}/api/jobs/{ref}",
        {"Authorization": f"Bearer {services.admin_token}"},
    )
    _wait(manifest.exists)  # asking the API all the time would be a load of its own
    with requests.Session() as session:
        _wait(
            lambda: (
                session.get(address, headers=headers, timeout=5).json()["state"]
                == JobState.ARCHIVED
            )
        )
    seen_at = time.time()
    _wait(
        lambda: bool(sandbox.task(task)["callbacks"])
    )  # noted once it was answered, and we may be as fast as that
    job, task_seen = services.queries.job(ref), sandbox.task(task)
    [asset] = services.queries.assets([ref])[ref]
    assert job is not None
    stored_at, asset_at, job_at = (
        moment or 0.0 for moment in (job.ended_at, asset.finished_at, job.finished_at)
    )
    bare = _bare(task_seen["files"][0]["url"], folder / f"{ref}.png")
    return Times(
        asset_at - stored_at, job_at - asset_at, seen_at - task_seen["callbacks"][0]["at"], bare
    )


def _bare(url: str, path: Path) -> float:
    """Fetch and write the file as a short script would; return the seconds."""
    started = time.perf_counter()
    data = requests.get(url, timeout=10).content
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - started


def _wait(happened: Callable[[], bool]) -> None:
    """Look every millisecond until it happened."""
    deadline = time.monotonic() + _LIMIT
    while not happened():
        if time.monotonic() > deadline:
            raise RuntimeError(f"a job was not archived within {_LIMIT:.0f} s")
        time.sleep(0.001)


def _lines(name: str, seconds: list[float], bare: list[float]) -> list[Line]:
    ours, its = [MS * one for one in seconds], [MS * one for one in bare]
    return [
        Line(f"{name}, p50", "ms", ours, its),
        Line("… p99", "ms", [percentile(ours, 0.99)], [percentile(its, 0.99)]),
    ]
