"""Rows of the ledger as typed values. Times are seconds since the epoch, sizes bytes, dimensions pixels."""

from dataclasses import dataclass

from receiver.model import Api, AssetState, EventDeliveryState, JobState, Mode, Outcome, Reason


@dataclass(frozen=True, slots=True)
class Job:
    """One job, as its row stands, without its ``params``; see ``tables.jobs`` for what each column means."""

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


@dataclass(frozen=True, slots=True)
class Asset:
    """One result file of a job, as its row stands; see ``tables.assets``."""

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


@dataclass(frozen=True, slots=True)
class Hint:
    """A provider's id that a stranger named; see ``tables.hints``."""

    provider_id: str
    received_at: float
    due_at: float
    claim: str | None
    attempts: int
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class EventDelivery:
    """The telling of one event to one destination, as its row stands; see ``tables.sendings``."""

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
class StoredAsset:
    """What is known of a result file once it is safe in the archive."""

    key: str
    sha256: str
    size: int
    content_type: str
    width: int | None
    height: int | None


@dataclass(frozen=True, slots=True)
class DeliveryEntry:
    """A delivery without its body, which may be large; ``size`` is the body's, in bytes."""

    id: int
    source: str
    verdict: str
    received_at: float
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """One delivery as it was kept; see ``tables.deliveries``."""

    id: int
    ref: str
    source: str
    verdict: str
    received_at: float
    digest: str
    body: bytes
