"""The job object: one job with its assets, as API, commands, library, reports and events show it.

The OpenAPI description is generated from these models.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from receiver.events.destinations import webhook_name
from receiver.ledger.queries.jobs import JobQueries, ShownRequest
from receiver.ledger.rows import Asset, Job, Rejected
from receiver.model import (
    FINAL_STATES,
    INLINE,
    Api,
    AssetState,
    JobState,
    Mode,
    Reason,
    timestamp,
)
from receiver.net.policy import read_url
from receiver.providers.grsai.request import NOT_SENT
from receiver.telemetry.redaction import without_url_secrets

Links = Callable[[str | None], str | None]
SHA256 = r"^[0-9a-f]{64}$"
# Characters of a prompt that an event has.
MAX_PROMPT_IN_EVENTS = 10_000
# Failures that a retry can repair: it brings fresh URLs, or another answer of the provider.
_RETRYABLE = (None, Reason.NO_RESULT, Reason.BAD_ASSET)


def asset_path(ref: str, index: int) -> str:
    """Return the path of an archived file in the API."""
    return f"/api/jobs/{ref}/assets/{index}"


class MarkView(BaseModel):
    """Data in a file that says where it comes from; ``size`` is in bytes."""

    model_config = ConfigDict(frozen=True)

    kind: str
    name: str
    size: int


class RejectedView(BaseModel):
    """The last file of an asset that failed inspection, and why.

    ``content_type`` is the claim of its server. ``quarantined_at`` is null if the file is not kept.
    """

    model_config = ConfigDict(frozen=True)

    sha256: Annotated[str, Field(pattern=SHA256)]
    size: int
    content_type: str
    reason: str
    quarantined_at: str | None

    @classmethod
    def of(cls, rejected: Rejected) -> Self:
        """Show one rejected file."""
        return cls(
            sha256=rejected.sha256,
            size=rejected.size,
            content_type=rejected.content_type,
            reason=rejected.reason,
            quarantined_at=timestamp(rejected.quarantined_at),
        )


class AssetView(BaseModel):
    """One result file. ``size`` is in bytes, dimensions in pixels; unknown values are null.

    ``url`` (here ``path``) is the path of its bytes in this API, null until it is archived;
    ``public_url`` is its lasting link, null without ARCHIVE_PUBLIC_URL; ``expires_at`` is when the
    provider's URL expires. ``error`` is that of the last of ``attempts``. ``accepted_at`` is when
    an operator accepted the rejected file as the result. ``defect`` names mistakes in the file that
    viewers tolerate. ``doubt`` says why it cannot be decoded. It is "" if it can, or if it is a
    video, and null until that is tried.
    """

    # Not called url here: in the library that is a method, which makes a link.
    model_config = ConfigDict(frozen=True, serialize_by_alias=True, validate_by_name=True)

    index: int
    state: AssetState
    key: str | None
    path: str | None = Field(alias="url")
    public_url: str | None
    sha256: Annotated[str, Field(pattern=SHA256)] | None
    size: int | None
    content_type: str | None
    width: int | None
    height: int | None
    error: str
    attempts: int
    expires_at: str
    finished_at: str | None
    accepted_at: str | None
    rejected: RejectedView | None
    defect: str
    marks: list[MarkView]
    doubt: str | None

    @classmethod
    def of(cls, asset: Asset, public_url: str | None) -> Self:
        """Show one row, whose file has this lasting link."""
        return cls(
            index=asset.idx,
            state=asset.state,
            key=asset.key,
            url=asset_path(asset.ref, asset.idx) if asset.key else None,
            public_url=public_url,
            sha256=asset.sha256,
            size=asset.size,
            content_type=asset.content_type,
            width=asset.width,
            height=asset.height,
            error=asset.error,
            attempts=asset.attempts,
            expires_at=timestamp(asset.expires_at) or "",
            finished_at=timestamp(asset.finished_at),
            accepted_at=timestamp(asset.accepted_at),
            rejected=RejectedView.of(asset.rejected) if asset.rejected else None,
            defect=asset.defect,
            marks=[MarkView(kind=one.kind, name=one.name, size=one.size) for one in asset.marks],
            doubt=asset.doubt,
        )


class Step(StrEnum):
    """What a job waits for."""

    CALLBACK = "callback"  # nothing else can complete it; it expires at that time
    POLL = "poll"  # the provider is polled
    ARCHIVE = "archive"  # the next file is downloaded
    CONCLUDE = "conclude"  # the manifest is stored
    ACCEPT = "accept"  # an operator may accept a rejected file
    RETRY = "retry"  # an operator may retry it


class NextView(BaseModel):
    """The next step of a job, and its earliest time; ``at`` is null if an operator must act."""

    model_config = ConfigDict(frozen=True)

    step: Step
    at: str | None

    @classmethod
    def of(cls, job: Job, assets: list[Asset]) -> Self | None:
        """Return the next step of a job; None if there is none."""
        if job.state in FINAL_STATES:
            step = _operators_step(job, assets)
            return cls(step=step, at=None) if step else None
        due = [asset.due_at for asset in assets if asset.due_at is not None]
        if due:
            return cls(step=Step.ARCHIVE, at=timestamp(min(due)))
        if job.state is JobState.ARCHIVING:
            return cls(step=Step.CONCLUDE, at=timestamp(job.due_at))
        step = Step.CALLBACK if job.provider_id is None else Step.POLL
        return cls(step=step, at=timestamp(job.due_at))


def _operators_step(job: Job, assets: list[Asset]) -> Step | None:
    if any(asset.is_acceptable for asset in assets):
        return Step.ACCEPT
    lost = [asset for asset in assets if asset.state is not AssetState.ARCHIVED]
    has_source = job.provider_id is not None or any(one.url.startswith(INLINE) for one in lost)
    is_lost = job.state is not JobState.ARCHIVED and job.reason in _RETRYABLE
    return Step.RETRY if is_lost and has_source else None


class RequestView(BaseModel):
    """What the provider was asked for: ``params`` are its own fields.

    Long texts, such as reference pictures, are shortened, and secrets are left out.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    prompt: str
    params: dict[str, JsonValue]

    @classmethod
    def of(cls, job: Job, shown: ShownRequest) -> Self:
        """Show the request of a job."""
        return cls(model=job.model, prompt=job.prompt, params=shown.params)


class JobView(BaseModel):
    """One job; times are RFC 3339 in UTC, ``progress`` is the provider's, 0–100.

    ``key``, ``batch``, ``metadata``, ``folder`` and ``webhook`` are the caller's. ``webhook`` is
    shown as its host and a digest, because the rest may be a secret. ``answered_at`` is when the
    answer to the submit was stored, ``ended_at`` when the provider's result was, ``finished_at``
    when the job became final. ``next`` is what the job waits for, null if it waits for nothing.
    ``requested`` is the number of pictures that was asked for, null if the request does not say it;
    ``missing`` is how many pictures were asked for or announced, but are not among the assets.
    """

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
    answered_at: str | None
    ended_at: str | None
    finished_at: str | None
    mode: Mode
    api: Api
    key: str | None
    batch: str | None
    metadata: dict[str, JsonValue]
    folder: str
    webhook: str | None
    request: RequestView | None
    next: NextView | None
    assets: Sequence[AssetView]
    requested: int | None
    missing: int

    @classmethod
    def of(cls, job: Job, assets: list[Asset], shown: ShownRequest, links: Links) -> Self:
        """Show one job with its assets; ``links`` returns the lasting link to an object."""
        is_direct = job.mode is Mode.SYNC  # the answer to the submit is the result
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
            answered_at=timestamp(job.answered_at or (job.ended_at if is_direct else None)),
            ended_at=timestamp(job.ended_at),
            finished_at=timestamp(job.finished_at),
            mode=job.mode,
            api=job.api,
            key=job.key,
            batch=job.batch,
            metadata=shown.metadata,
            folder=job.folder,
            webhook=webhook_shown(shown.webhook),
            request=RequestView.of(job, shown) if job.model else None,
            next=NextView.of(job, assets),
            assets=[AssetView.of(asset, links(asset.key)) for asset in assets],
            requested=job.requested,
            missing=job.missing(len(assets)),
        )


def webhook_shown(url: str | None) -> str | None:
    """Return how a job's webhook is shown, without its path, which may be a secret."""
    return webhook_name(read_url(url)) if url else None


def shortened(job: JobView) -> JobView:
    """Return a job for an event, which SQS and SNS limit to 256 KiB: a long prompt is cut."""
    if len(job.prompt) <= MAX_PROMPT_IN_EVENTS:
        return job
    cut = {"prompt": f"{job.prompt[:MAX_PROMPT_IN_EVENTS]}… ({len(job.prompt)} characters)"}
    request = job.request.model_copy(update=cut) if job.request else None
    return job.model_copy(update={**cut, "request": request})


class JobObjects:
    """Reads job objects from the ledger; ``redact`` removes secrets from a text.

    ``links`` returns the lasting link to an object, if there is one.
    """

    def __init__(self, queries: JobQueries, redact: Callable[[str], str], links: Links) -> None:
        self._links = links
        self._queries = queries
        self._redact = redact

    def named(self, refs: Sequence[str]) -> dict[str, JobView]:
        """Return the job objects of a few hundred jobs by ref; unknown refs are left out."""
        return {job.ref: job for job in self.of(self._queries.jobs_named(list(refs)))}

    def of(self, jobs: Sequence[Job]) -> list[JobView]:
        """Return the objects of jobs that were just read, in the same order.

        The jobs come first: the assets of a job that has ended are final too.
        """
        refs = [job.ref for job in jobs]
        assets, shown = self._queries.assets(refs), self._queries.requests(refs)
        nothing = ShownRequest({}, {})
        return [
            JobView.of(
                job, assets[job.ref], self._redacted(shown.get(job.ref, nothing)), self._links
            )
            for job in jobs
        ]

    def _redacted(self, shown: ShownRequest) -> ShownRequest:
        """Leave out secrets, and what chooses how the result arrives: it is not sent."""
        sent = {name: value for name, value in shown.params.items() if name not in NOT_SENT}
        return ShownRequest(self._hide(sent), shown.metadata, shown.webhook)

    def _hide(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._redact(without_url_secrets(value))
        if isinstance(value, dict):
            return {self._redact(name): self._hide(inner) for name, inner in value.items()}
        return [self._hide(inner) for inner in value] if isinstance(value, list) else value
