"""The manifest: ``job.json`` beside a job's objects. The ledger can be rebuilt from manifests.

Keys depend only on ref and index: the date in them comes from the ref. Times are RFC 3339, UTC.
"""

import json
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

from receiver.errors import UnreadableError, mistakes_in
from receiver.ledger.rows import Asset, DeliveryEntry, Job, Rejected
from receiver.model import (
    FINAL_STATES,
    QUARANTINE,
    Api,
    AssetState,
    Decision,
    JobState,
    Mode,
    Proof,
    Reason,
    Source,
    is_folder,
    ref_time,
    timestamp,
)

FORMAT = 1
# Bytes of a manifest that are read. It may contain reference pictures; no job has more than this.
MAX_MANIFEST_SIZE = 256 * 1024 * 1024
# How many mistakes of a broken manifest an error text names.
_MAX_MISTAKES = 3
_KEY = re.compile(
    r"[0-9]{4}/[0-9]{2}/[0-9]{2}/([0-7][0-9A-HJKMNP-TV-Z]{25})/"
    r"(job\.json|(?:0|[1-9][0-9]{0,8})\.[a-z0-9]+)"
)

# Parts of a key behind the job's own folder: year, month, day, ref, name.
_PARTS = 5

# Keys of rejected files are like those of result files without a folder, with the hash at the end.
_QUARANTINE_KEY = re.compile(
    QUARANTINE + r"/[0-9]{4}/[0-9]{2}/[0-9]{2}/([0-7][0-9A-HJKMNP-TV-Z]{25})/"
    r"(?:0|[1-9][0-9]{0,8})-[0-9a-f]{64}"
)


def asset_key(ref: str, idx: int, extension: str, folder: str = "") -> str:
    """Return the key of one result file; ``folder`` is the one that its job named."""
    return f"{asset_prefix(ref, idx, folder)}{extension}"


def asset_prefix(ref: str, idx: int, folder: str = "") -> str:
    """Return the key of one result file without its extension."""
    return f"{_folder(ref, folder)}/{idx}."


def manifest_key(ref: str, folder: str = "") -> str:
    """Return the key of a job's manifest."""
    return f"{_folder(ref, folder)}/job.json"


def _folder(ref: str, folder: str = "") -> str:
    own = f"{ref_time(ref):%Y/%m/%d}/{ref}"
    return f"{folder}/{own}" if folder else own


def quarantine_key(ref: str, idx: int, sha256: str) -> str:
    """Return the key of a rejected file: one for each content, so no object is overwritten."""
    return f"{QUARANTINE}/{_folder(ref)}/{idx}-{sha256}"


def parse_quarantine_key(key: str) -> str | None:
    """Return the ref in the key of a rejected file, or None if it is another key."""
    found = _QUARANTINE_KEY.fullmatch(key)
    with suppress(ValueError):  # a ref whose time is out of range
        if found and key.startswith(f"{QUARANTINE}/{_folder(found[1])}/"):
            return found[1]
    return None


def parse_key(key: str) -> tuple[str, str] | None:
    """Return ref and file name from a key of a job that named no folder.

    Return None if the service would not make such a key.
    """
    found = _KEY.fullmatch(key)
    with suppress(ValueError):  # a ref whose time is out of range
        return (found[1], found[2]) if found and found[0].startswith(_folder(found[1])) else None
    return None


@dataclass(frozen=True, slots=True)
class JobKey:
    """The parts of a key: the folder that the job named ("" for none), its ref, the file's name."""

    folder: str
    ref: str
    name: str


def parse_job_key(key: str) -> JobKey | None:
    """Return the parts of a key, or None if the service would not make such a key for any job."""
    parts = key.split("/")
    folder, own = "/".join(parts[:-_PARTS]), "/".join(parts[-_PARTS:])
    found = parse_key(own)
    return JobKey(folder, *found) if found and (not folder or is_folder(folder)) else None


def manifest(
    job: Job,
    params: str,
    assets: list[Asset],
    deliveries: list[DeliveryEntry],
    metadata: str = "{}",
) -> bytes:
    """Return the manifest of a job that has ended, as JSON.

    It contains the request, the digest of every delivery, and every asset with its source.
    """
    content = {
        "format": FORMAT,
        "ref": job.ref,
        "state": job.state,
        "reason": job.reason,
        "message": job.message,
        "provider": job.provider,
        "base_url": job.base_url,
        "provider_id": job.provider_id,
        "api": job.api,
        "mode": job.mode,
        "key": job.key,
        "batch": job.batch,
        "metadata": json.loads(metadata),
        "folder": job.folder,
        "request": {"model": job.model, "prompt": job.prompt, "params": json.loads(params)},
        "submitted_at": timestamp(job.submitted_at),
        "answered_at": timestamp(job.answered_at),
        "ended_at": timestamp(job.ended_at),
        "finished_at": timestamp(job.finished_at),
        "round": job.round,
        "requested": job.requested,
        "left_out": job.left_out,
        "deliveries": [_delivery(row) for row in deliveries],
        "assets": [_asset(asset) for asset in assets],
    }
    return _json(content).encode()


# With an indent Python would use its slow encoder.
_encode = json.JSONEncoder(ensure_ascii=False).encode


def _json(content: dict[str, object]) -> str:
    """Return JSON with a line for each field, each delivery and each asset."""
    lines = (f" {_encode(name)}: {_field(value)}" for name, value in content.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _field(value: object) -> str:
    if isinstance(value, list) and value:
        return "[\n  " + ",\n  ".join(map(_encode, value)) + "\n ]"
    return _encode(value)


def _delivery(row: DeliveryEntry) -> dict[str, object]:
    return {
        "source": row.source,
        "verdict": row.verdict,
        "received_at": timestamp(row.received_at),
        "sha256": row.digest,
        "repaired": row.repaired,
        "proof": row.proof,
    }


def _asset(asset: Asset) -> dict[str, object]:
    return {
        "index": asset.idx,
        "state": asset.state,
        "key": asset.key,
        "sha256": asset.sha256,
        "size": asset.size,
        "content_type": asset.content_type,
        "width": asset.width,
        "height": asset.height,
        "source_url": asset.url,
        "announced_at": timestamp(asset.announced_at),
        "expires_at": timestamp(asset.expires_at),
        "finished_at": timestamp(asset.finished_at),
        "decoded": asset.decoded,
        "defect": asset.defect,
        "marks": [asdict(mark) for mark in asset.marks],
        "attempts": asset.attempts,
        "error": asset.error,
        "accepted_at": timestamp(asset.accepted_at),
        "rejected": _rejected(asset.rejected),
    }


def _rejected(found: Rejected | None) -> dict[str, object] | None:
    if found is None:
        return None
    return {
        "sha256": found.sha256,
        "size": found.size,
        "content_type": found.content_type,
        "reason": found.reason,
        "quarantined_at": timestamp(found.quarantined_at),
    }


# Reading. Unknown fields are ignored, so that two releases can share an archive.


def _moment(value: object) -> object:
    """Return the seconds since the epoch of an RFC 3339 time."""
    if not isinstance(value, str):
        raise ValueError("a time is RFC 3339 text")  # noqa: TRY004 - pydantic knows ValueError
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError("a time names its zone")
    return moment.timestamp()


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("a text holds a NUL character")  # PostgreSQL cannot store it
    return text


def _folder_name(text: str) -> str:
    if text and not is_folder(text):
        raise ValueError("not a folder that a job may name")
    return text


Moment = Annotated[float, BeforeValidator(_moment)]
Words = Annotated[str, AfterValidator(_storable)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[int, Field(ge=0, lt=2**31)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class ManifestRequest(_Part):
    """The request of the job."""

    model: Words
    prompt: Words
    params: dict[str, JsonValue]


class ManifestDelivery(_Part):
    """One report about the job, with the digest of its body."""

    source: Source
    verdict: Decision
    received_at: Moment
    sha256: Digest
    repaired: Words = ""
    proof: Proof | None = None


class ManifestRejected(_Part):
    """The last file of an asset that failed inspection, and why."""

    sha256: Digest
    size: Annotated[int, Field(gt=0, lt=2**63)]
    content_type: Words
    reason: Words
    quarantined_at: Moment | None


class ManifestMark(_Part):
    """Data in a file that says where it comes from."""

    kind: Words
    name: Words
    size: Annotated[int, Field(ge=0, lt=2**63)]


class ManifestAsset(_Part):
    """One result file and its final state."""

    index: Number
    state: Literal[AssetState.ARCHIVED, AssetState.FAILED, AssetState.EXPIRED]
    key: Words | None
    sha256: Digest | None
    size: Annotated[int, Field(gt=0, lt=2**63)] | None
    content_type: Words | None
    width: Number | None
    height: Number | None
    source_url: Words
    announced_at: Moment
    expires_at: Moment
    finished_at: Moment
    attempts: Number
    error: Words
    decoded: Words = ""
    accepted_at: Moment | None = None
    rejected: ManifestRejected | None = None
    defect: Words = ""
    marks: list[ManifestMark] = []


class Manifest(_Part):
    """A job that has ended, as read from its manifest. Times are seconds since the epoch."""

    format: Literal[1]
    ref: str
    state: JobState
    # The first release did not write these two; they follow from the assets.
    reason: Reason | None = None
    message: Words = ""
    provider: Annotated[Words, Field(min_length=1)]
    base_url: Words
    provider_id: Words | None
    api: Api
    mode: Mode
    key: Words | None
    batch: Words | None = None
    metadata: dict[Words, JsonValue] = {}
    folder: Annotated[str, AfterValidator(_folder_name)] = ""
    request: ManifestRequest
    submitted_at: Moment
    answered_at: Moment | None = None
    ended_at: Moment
    finished_at: Moment | None = None  # None: the first release; then that of the last asset
    round: Number = 0
    requested: Number | None = None
    left_out: Number = 0
    deliveries: list[ManifestDelivery]
    assets: Annotated[list[ManifestAsset], Field(min_length=1)]

    @property
    def archived(self) -> list[ManifestAsset]:
        """The assets that have an object."""
        return [asset for asset in self.assets if asset.state is AssetState.ARCHIVED]

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        """Check the invariants of the ledger."""
        if self.state not in FINAL_STATES:
            raise ValueError(f"the job is {self.state}, which is not a final state")
        if (self.state is JobState.ARCHIVED) != (len(self.archived) == len(self.assets)):
            raise ValueError(
                f"the job is {self.state}, but {len(self.archived)} of its {len(self.assets)} "
                "assets are archived"
            )
        if self.reason is not None and self.state is not JobState.FAILED:
            raise ValueError(f"the job is {self.state}, yet has a reason to have failed")
        if len({asset.index for asset in self.assets}) < len(self.assets):
            raise ValueError("two assets have the same index")
        for asset in self.archived:
            if None in (asset.key, asset.sha256, asset.size, asset.content_type):
                raise ValueError(
                    f"asset {asset.index} is archived without a key, SHA-256, size or type"
                )
            if parse_job_key(asset.key or "") is None or not (asset.key or "").startswith(
                asset_prefix(self.ref, asset.index, self.folder)
            ):
                raise ValueError(
                    f"asset {asset.index} has a key that is not its own: {asset.key!r}"
                )
        return self


def read_manifest(data: bytes, ref: str) -> Manifest:
    """Read the manifest of the job ``ref``.

    Raise UnreadableError, with the first mistakes, if it is invalid or belongs to another job.
    """
    try:
        found = Manifest.model_validate_json(data)
    except ValidationError as error:
        mistakes = [": ".join(filter(None, mistake)) for mistake in mistakes_in(error)]
        raise UnreadableError("; ".join(mistakes[:_MAX_MISTAKES])) from error
    if found.ref != ref:
        raise UnreadableError(f"ref: it is the manifest of {found.ref}")
    return found
