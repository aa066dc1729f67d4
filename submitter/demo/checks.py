"""The checks of the demo: the state of each job, and every object's SHA-256 against the sandbox."""

import hashlib
from dataclasses import dataclass
from typing import Any

import requests
from rich.table import Table
from rich.text import Text

from receiver.cli.terminal import new_table
from receiver.ledger.rows import Asset, Job
from receiver.services import Services
from receiver.telemetry.printable import printable
from submitter.demo.jobs import DemoJob


@dataclass(frozen=True, slots=True)
class JobCheck:
    """One job after its end, with what the archive and the sandbox have for it."""

    demo_job: DemoJob
    job: Job
    assets: list[Asset]
    archived: list[str]  # SHA-256 of the objects in the archive
    made: list[str] | None  # SHA-256 of the files that the sandbox made; None with the real API
    posts: int | None  # how many times the sandbox received the job; None with the real API

    @property
    def problems(self) -> list[str]:
        """What is not as promised."""
        wrong = []
        expected = self.demo_job.expected_state
        if self.job.state is not expected:
            wrong.append(f"is {self.job.state}, should be {expected}: {self.job.message}")
        if [asset.sha256 for asset in self.assets] != self.archived:
            wrong.append("an object in the archive has another SHA-256 than the ledger")
        if self.made is not None and self.made != self.archived:
            wrong.append("the archive has other bytes than the sandbox made")
        if self.posts not in {None, 1}:
            wrong.append(f"was posted {self.posts} times")
        return wrong

    @property
    def seconds(self) -> float | None:
        """Seconds from the final report of the provider until everything was archived."""
        if not self.assets or self.job.finished_at is None or self.job.ended_at is None:
            return None
        return self.job.finished_at - self.job.ended_at


def check_job(services: Services, demo_job: DemoJob, ref: str, sandbox_url: str | None) -> JobCheck:
    """Compare ledger, archive and sandbox for one job."""
    job = services.queries.jobs_named([ref])[0]
    assets = services.queries.assets([ref])[ref]
    task = _task(sandbox_url, job.provider_id) if sandbox_url and job.provider_id else None
    archived = [_digest(services, asset.key) for asset in assets if asset.key]
    made = [file["sha256"] for file in task["files"]] if task else None
    return JobCheck(demo_job, job, assets, archived, made, task["submits"] if task else None)


def _task(sandbox_url: str, task_id: str) -> dict[str, Any]:
    answer = requests.get(f"{sandbox_url}/sandbox/tasks/{task_id}", timeout=30)
    answer.raise_for_status()
    task: dict[str, Any] = answer.json()
    return task


def _digest(services: Services, key: str) -> str:
    digest = hashlib.sha256()
    with services.store.open(key) as source:
        while block := source.read(1 << 18):
            digest.update(block)
    return digest.hexdigest()


def table(checks: list[JobCheck]) -> Table:
    """Return a table of all jobs with their objects."""
    columns = ("job", "what it shows", "model", "state", "objects", "SHA-256", "to archived")
    shown = new_table(*columns, title="From a paid job to a picture that is safe")
    for check in checks:
        job, mark = check.job, "✗" if check.problems else "✓"
        names = (
            f"{(asset.key or '?').rpartition('/')[2]} {(asset.size or 0) / 1e6:.1f} MB"
            for asset in check.assets
        )
        objects = Text("\n").join(Text(printable(name)) for name in names)
        digests = Text("\n").join(
            Text(f"{(asset.sha256 or '?')[:12]} {mark}") for asset in check.assets
        )
        took = "" if check.seconds is None else f"{check.seconds * 1000:.0f} ms"
        state = Text(job.state, "red" if check.problems else "green")
        if job.reason:
            state = Text("\n").join([state, Text(job.reason)])
        shown.add_row(job.ref, check.demo_job.title, job.model, state, objects, digests, took)
    return shown
