"""What the demo checks and shows: each job's end, its objects, their SHA-256 against what the sandbox made."""

import hashlib
from dataclasses import dataclass
from typing import Any

import requests
from rich.table import Table

from receiver.ledger.rows import Asset, Job
from receiver.services import Services
from submitter.demo.jobs import Scene


@dataclass(frozen=True, slots=True)
class Finding:
    """One job after its end. ``made`` are the SHA-256 the sandbox remembers, None where nobody can say (the real API)."""

    scene: Scene
    job: Job
    assets: list[Asset]
    stored: list[str]
    made: list[str] | None
    posts: int | None

    @property
    def complaints(self) -> list[str]:
        """Say what is not as promised."""
        wrong = []
        if self.job.state is not self.scene.ends:
            wrong.append(f"is {self.job.state}, should be {self.scene.ends}: {self.job.message}")
        if [asset.sha256 for asset in self.assets] != self.stored:
            wrong.append("an object in the archive has another SHA-256 than the ledger")
        if self.made is not None and self.made != self.stored:
            wrong.append("the archive has other bytes than the sandbox made")
        if self.posts not in {None, 1}:
            wrong.append(f"was posted {self.posts} times")
        return wrong

    @property
    def seconds(self) -> float | None:
        """Seconds from the report that ended the job until everything was archived."""
        if not self.assets or self.job.finished_at is None or self.job.ended_at is None:
            return None
        return self.job.finished_at - self.job.ended_at


def look(services: Services, scene: Scene, ref: str, sandbox_url: str | None) -> Finding:
    """Compare ledger, archive and sandbox for one job."""
    job = services.queries.jobs_named([ref])[0]
    assets = services.queries.assets([ref])[ref]
    task = _task(sandbox_url, job.provider_id) if sandbox_url and job.provider_id else None
    stored = [_digest(services, asset.key) for asset in assets if asset.key]
    made = [file["sha256"] for file in task["files"]] if task else None
    return Finding(scene, job, assets, stored, made, task["submits"] if task else None)


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


def table(findings: list[Finding]) -> Table:
    """Show every job with its objects."""
    shown = Table(
        "job",
        "what it shows",
        "model",
        "state",
        "objects",
        "SHA-256",
        "to archived",
        title="From a paid job to a picture that is safe",
    )
    for finding in findings:
        objects = "\n".join(
            f"{(asset.key or '?').rpartition('/')[2]} {(asset.size or 0) / 1e6:.1f} MB"
            for asset in finding.assets
        )
        mark = "✗" if finding.complaints else "✓"
        digests = "\n".join(f"{(asset.sha256 or '?')[:12]} {mark}" for asset in finding.assets)
        took = "" if finding.seconds is None else f"{finding.seconds * 1000:.0f} ms"
        colour = "red" if finding.complaints else "green"
        state = f"[{colour}]{finding.job.state}[/]" + (
            f"\n{finding.job.reason}" if finding.job.reason else ""
        )
        shown.add_row(
            finding.job.ref, finding.scene.title, finding.job.model, state, objects, digests, took
        )
    return shown
