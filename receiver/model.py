"""The words of the service as types: states, reasons, reports and what a provider's answer is turned into.

Nothing here does I/O. Times are seconds since the epoch (float, UTC), sizes are bytes, dimensions are pixels.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from ulid import ULID


class JobState(StrEnum):
    """Where a job stands; the last three are final."""

    SUBMITTING = "submitting"  # the row exists; the POST is in flight, or its answer was lost
    WAITING = "waiting"  # the provider has it
    ARCHIVING = "archiving"  # the result is known, its assets are on their way
    ARCHIVED = "archived"
    FAILED = "failed"
    EXPIRED = "expired"


FINAL_STATES = (JobState.ARCHIVED, JobState.FAILED, JobState.EXPIRED)


class AssetState(StrEnum):
    """Where one result file stands; all but the first are final."""

    PENDING = "pending"
    ARCHIVED = "archived"
    FAILED = "failed"
    EXPIRED = "expired"


class Reason(StrEnum):
    """Why a job failed."""

    REFUSED = "refused"  # the provider did not take the submit
    INPUT_MODERATION = "input_moderation"
    OUTPUT_MODERATION = "output_moderation"
    VIOLATION = "violation"
    PROVIDER_ERROR = "provider_error"
    NO_RESULT = "no_result"  # succeeded, twice, without a URL
    BAD_ASSET = "bad_asset"  # the bytes behind a URL are not the picture, or may not be fetched


class Provider(StrEnum):
    """Whom a job is posted to."""

    GRSAI = "grsai"
    OPENAI = "openai"


class Mode(StrEnum):
    """How a job's result is to reach us."""

    WEBHOOK = "webhook"
    POLL = "poll"
    STREAM = "stream"
    SYNC = "sync"  # OpenAI: the answer is the result


class Api(StrEnum):
    """Which of a provider's dialects a job is posted in, and asked for in."""

    DRAW = "draw"  # GRSAI's older API: /v1/draw, /v1/video
    NEWER = "api"  # GRSAI's newer one: /v1/api
    IMAGES = "images"  # OpenAI's Images API


class Source(StrEnum):
    """Where a delivery came from."""

    CALLBACK = "callback"
    POLL = "poll"
    STREAM = "stream"
    SYNC = "sync"


class Outcome(StrEnum):
    """What a report says of its job."""

    RUNNING = "running"  # also every status word we do not know
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Decision(StrEnum):
    """What a delivery changed."""

    PROGRESS = "progress"  # the job goes on
    ENDED = "ended"  # the first terminal report: it decided the job
    REFRESHED = "refreshed"  # a poll brought fresh URLs for assets not yet archived
    EMPTY = "empty"  # succeeded without a URL: the result is asked for once more
    DUPLICATE = "duplicate"  # says what we knew
    LATE = "late"  # running, after the end
    CONTRADICTION = "contradiction"  # another end than the one that counted
    OTHER_ID = "other_id"  # a right ticket around another task's report
    UNCONFIRMED = "unconfirmed"  # kept; the result is read back from the provider (CONFIRM=always)
    UNREADABLE = "unreadable"  # kept as evidence


class EventType(StrEnum):
    """What is told to others."""

    ASSET_ARCHIVED = "asset.archived"
    JOB_ARCHIVED = "job.archived"
    JOB_FAILED = "job.failed"
    JOB_EXPIRED = "job.expired"
    JOB_AT_RISK = "job.at_risk"


class EventDeliveryState(StrEnum):
    """Where the telling of one event to one destination stands."""

    PENDING = "pending"
    SENT = "sent"
    SET_ASIDE = (
        "set_aside"  # given up after days of trying; kept to be seen, and sent again on request
    )


# In place of a URL, before an index: the bytes came within the answer itself, which the ledger keeps.
INLINE = "delivery:"


@dataclass(frozen=True, slots=True)
class Result:
    """One result file as the provider announced it; the dimensions are its claim, not a measurement.

    ``url`` is where to fetch it, or ``delivery:<index>``: the picture at that index of the answer that brought it.
    """

    url: str
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """One provider message about one task, whatever its source.

    ``status`` keeps the vendor's own word; ``progress`` is 0–100; ``reason`` is set when the outcome is FAILED.
    """

    outcome: Outcome
    provider_id: str | None
    status: str
    progress: int = 0
    results: tuple[Result, ...] = ()
    reason: Reason | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One report as it arrived: the raw body stays beside whatever we read in it."""

    ref: str
    source: Source
    body: bytes
    received_at: float


@dataclass(frozen=True, slots=True)
class Submission:
    """What a caller asks for: the provider's fields (``params``) are passed through untouched.

    ``key`` is the caller's own name for the job: it is taken by one job only, so that repeating a submit pays nothing twice.
    """

    prompt: str
    model: str
    params: dict[str, object]
    mode: Mode = Mode.WEBHOOK
    provider: Provider = Provider.GRSAI
    api: Api = Api.DRAW
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things may take, in seconds: the settings of the same names."""

    url_lifetime: float
    poll_after: float
    poll_interval: float
    job_timeout: float


def risk_begins(expires_at: float, lifetime: float) -> float:
    """Return when an asset counts as at risk: in the last quarter of its URL's ``lifetime``."""
    return expires_at - lifetime / 4


def new_ref(now: float) -> str:
    """Make a job's ref: a ULID, so refs sort by time and a ref's date can be read from it."""
    return str(ULID.from_timestamp(now))


def ref_time(ref: str) -> datetime:
    """Return the moment a ref was made, in UTC; the archive's folders are named after it."""
    return ULID.from_str(ref).datetime.astimezone(UTC)


def timestamp(moment: float | None) -> str | None:
    """Return a moment (seconds since the epoch) as RFC 3339 text with milliseconds; nothing stays nothing."""
    return (
        None
        if moment is None
        else datetime.fromtimestamp(moment, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )
