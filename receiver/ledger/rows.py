"""Rows of the ledger as typed values.

Times are seconds since the epoch, sizes are bytes, dimensions are pixels.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Row

from receiver.ledger.tables import assets, job_columns
from receiver.model import (
    Api,
    AssetState,
    EventDeliveryState,
    JobState,
    Mark,
    Mode,
    Outcome,
    Reason,
)

# Rows are converted by position, which costs less than by name.
_JOB_COLUMNS = [column.name for column in job_columns]
_ASSET_COLUMNS = [column.name for column in assets.columns]


@dataclass(frozen=True, slots=True)
class Job:
    """A row of ``jobs``: its ``job_columns``, which ``tables.jobs`` explains."""

    ref: str
    provider: str
    base_url: str
    provider_id: str | None
    api: Api
    mode: Mode
    model: str
    prompt: str
    key: str | None
    state: JobState
    outcome: Outcome | None
    reason: Reason | None
    message: str
    progress: int
    submitted_at: float
    deadline_at: float
    ended_at: float | None
    finished_at: float | None
    round: int
    due_at: float | None
    claim: str | None
    attempts: int
    crashes: int = 0
    requested: int | None = None
    left_out: int = 0
    poll_url: str | None = None
    batch: str | None = None
    folder: str = ""
    answered_at: float | None = None

    def missing(self, assets: int) -> int:
        """Return how many pictures were asked for or announced, but are not among the assets."""
        return max(0, (self.requested or 0) - assets) + self.left_out if assets else 0


@dataclass(frozen=True, slots=True)
class Rejected:
    """A downloaded file that failed inspection, and why; ``content_type`` is its server's claim.

    ``quarantined_at`` is when it came into the quarantine; None: it is not kept there.
    """

    sha256: str
    size: int
    content_type: str
    reason: str
    quarantined_at: float | None


@dataclass(frozen=True, slots=True)
class Asset:
    """A row of ``assets``: one result file of a job."""

    ref: str
    idx: int
    state: AssetState
    url: str
    announced_at: float
    expires_at: float
    due_at: float | None
    claim: str | None
    attempts: int
    error: str
    key: str | None
    sha256: str | None
    size: int | None
    content_type: str | None
    width: int | None
    height: int | None
    finished_at: float | None
    crashes: int = 0
    decoded: str = ""
    rejected_sha256: str | None = None
    rejected_size: int | None = None
    rejected_type: str | None = None
    rejected_reason: str | None = None
    quarantined_at: float | None = None
    accepted_at: float | None = None
    defect: str = ""
    marks: tuple[Mark, ...] = ()
    doubt: str | None = ""
    folder: str = ""

    @property
    def lifetime(self) -> float:
        """How many seconds its URL was valid when we received it."""
        return self.expires_at - self.announced_at

    @property
    def rejected(self) -> Rejected | None:
        """The last file that failed inspection; None if there is none or a later one passed it."""
        passed = self.state is AssetState.ARCHIVED and self.accepted_at is None
        if passed or self.rejected_sha256 is None:
            return None
        return Rejected(
            self.rejected_sha256,
            self.rejected_size or 0,
            self.rejected_type or "",
            self.rejected_reason or "",
            self.quarantined_at,
        )

    @property
    def is_acceptable(self) -> bool:
        """Whether its rejected file is kept and may be accepted."""
        return self.quarantined_at is not None and self.state is not AssetState.ARCHIVED


@dataclass(frozen=True, slots=True)
class Hint:
    """A row of ``hints``: a provider's id from a callback without a ticket."""

    provider_id: str
    received_at: float
    due_at: float
    claim: str | None
    attempts: int
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class EventDelivery:
    """A row of ``sendings``: the delivery of one event to one destination."""

    destination: str
    event: int
    ref: str
    state: EventDeliveryState
    since: float
    due_at: float | None
    claim: str | None
    attempts: int
    error: str
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class End:
    """How a job ends at the time ``at`` whose assets are all final, as decided in its ``round``."""

    state: JobState
    reason: Reason | None
    message: str
    round: int
    at: float


@dataclass(frozen=True, slots=True)
class StoredAsset:
    """What is known about a result file once it is in the archive."""

    key: str
    sha256: str
    size: int
    content_type: str
    width: int | None
    height: int | None
    decoded: str = ""
    defect: str = ""
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class DeliveryEntry:
    """A row of ``deliveries`` without its body, which may be large; ``size`` is the body's."""

    id: int
    source: str
    verdict: str
    received_at: float
    digest: str
    size: int
    repaired: str = ""
    proof: str | None = None


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """A row of ``deliveries``."""

    id: int
    ref: str
    source: str
    verdict: str
    received_at: float
    digest: str
    body: bytes
    repaired: str = ""
    proof: str | None = None
    dismissed_at: float | None = None


def job_of(row: Sequence[Any]) -> Job:
    """Convert a row of ``job_columns`` to a Job."""
    values = dict(zip(_JOB_COLUMNS, row, strict=True))
    values["api"] = Api(values["api"])
    values["mode"] = Mode(values["mode"])
    values["state"] = JobState(values["state"])
    values["outcome"] = Outcome(values["outcome"]) if values["outcome"] else None
    values["reason"] = Reason(values["reason"]) if values["reason"] else None
    return Job(**values)


def asset_of(row: Sequence[Any]) -> Asset:
    """Convert a full row of ``assets`` to an Asset."""
    values = dict(zip(_ASSET_COLUMNS, row, strict=True))
    values["state"] = AssetState(values["state"])
    values["marks"] = marks_of(values["marks"])
    return Asset(**values)


def marks_text(marks: Sequence[Mark]) -> str:
    """Return the text of the column ``marks``."""
    return json.dumps([asdict(mark) for mark in marks], separators=(",", ":")) if marks else ""


def marks_of(text: str) -> tuple[Mark, ...]:
    """Return the marks in the text of the column."""
    return tuple(Mark(**mark) for mark in json.loads(text)) if text else ()


def event_delivery_of(row: Row[Any]) -> EventDelivery:
    """Convert a full row of ``sendings`` to an EventDelivery; other columns are left out."""
    values = {name: row._mapping[name] for name in EventDelivery.__dataclass_fields__}  # noqa: SLF001 - the documented way to a row's names
    return EventDelivery(**{**values, "state": EventDeliveryState(values["state"])})
