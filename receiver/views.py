"""The job object of the contract: what the API, ``submitter --json`` and batch reports show of a job."""

from typing import Self

from pydantic import BaseModel, ConfigDict

from receiver.archive.manifest import timestamp
from receiver.ledger.rows import Asset, Job
from receiver.model import AssetState, JobState, Reason


class AssetView(BaseModel):
    """One result file; what is known only of archived ones is null before. ``size`` in bytes, dimensions in pixels."""

    model_config = ConfigDict(frozen=True)

    index: int
    state: AssetState
    key: str | None
    sha256: str | None
    size: int | None
    content_type: str | None
    width: int | None
    height: int | None

    @classmethod
    def of(cls, asset: Asset) -> Self:
        """Show one row."""
        return cls(
            index=asset.idx,
            state=asset.state,
            key=asset.key,
            sha256=asset.sha256,
            size=asset.size,
            content_type=asset.content_type,
            width=asset.width,
            height=asset.height,
        )


class JobView(BaseModel):
    """One job; ``submitted_at`` is RFC 3339 in UTC, ``progress`` 0–100 by the provider's word."""

    model_config = ConfigDict(frozen=True)

    ref: str
    state: JobState
    progress: int
    provider: str
    provider_id: str | None
    model: str
    prompt: str
    reason: Reason | None
    message: str
    submitted_at: str
    assets: list[AssetView]

    @classmethod
    def of(cls, job: Job, assets: list[Asset]) -> Self:
        """Show one job with its assets."""
        return cls(
            ref=job.ref,
            state=job.state,
            progress=job.progress,
            provider=job.provider,
            provider_id=job.provider_id,
            model=job.model,
            prompt=job.prompt,
            reason=job.reason,
            message=job.message,
            submitted_at=timestamp(job.submitted_at) or "",
            assets=[AssetView.of(asset) for asset in assets],
        )
