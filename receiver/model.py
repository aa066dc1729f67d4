"""The terms of the service as types: states, reasons, reports, deliveries, submissions.

Nothing here does I/O. Times are seconds since the epoch (float, UTC), sizes are bytes, dimensions
are pixels.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from ulid import ULID

from receiver.errors import ProviderError


class JobState(StrEnum):
    """Where a job stands; the last three are final."""

    SUBMITTING = "submitting"  # the POST is in flight, or its answer was lost
    WAITING = "waiting"  # the provider has it
    ARCHIVING = "archiving"  # the result is known, assets are pending
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
    NO_RESULT = "no_result"  # succeeded twice without a URL
    BAD_ASSET = "bad_asset"  # the bytes behind a URL are not the picture, or may not be fetched


class Provider(StrEnum):
    """The service that a job is posted to."""

    GRSAI = "grsai"
    OPENAI = "openai"
    FAL = "fal"
    REPLICATE = "replicate"
    BFL = "bfl"
    KIE = "kie"

    @classmethod
    def of(cls, word: str) -> "Provider":
        """Return the provider of a stored job; raise ProviderError if this release has no such one.

        A later release may have written it, before this service went back to the present release.
        """
        try:
            return cls(word)
        except ValueError as error:
            text = f"this release does not know the provider {word!r}; a later one wrote it"
            raise ProviderError(text) from error


class Mode(StrEnum):
    """How a job's result reaches us."""

    WEBHOOK = "webhook"
    POLL = "poll"
    STREAM = "stream"
    SYNC = "sync"  # OpenAI: the answer is the result


class Api(StrEnum):
    """The provider's API by which a job is posted and polled."""

    DRAW = "draw"  # GRSAI's older API: /v1/draw, /v1/video
    NEWER = "api"  # GRSAI's newer one: /v1/api
    IMAGES = "images"  # OpenAI's Images API
    QUEUE = "queue"  # the only one of the others: a task is posted, its end is reported later


class Source(StrEnum):
    """Where a delivery came from."""

    CALLBACK = "callback"
    POLL = "poll"
    STREAM = "stream"
    SYNC = "sync"


class Proof(StrEnum):
    """What is proved about a report: the trust ladder, best first."""

    BODY = "body"  # a signature of the body that names our account; or the provider's own answer
    TASK = "task"  # a signature or the ticket covers the task, not what is said about it
    NONE = "none"  # nothing, or something is wrong: a hint


class Outcome(StrEnum):
    """What a report says about its job."""

    RUNNING = "running"  # also every unknown status
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Decision(StrEnum):
    """What we decided about a delivery; the column is called ``verdict``."""

    PROGRESS = "progress"  # the job continues
    ENDED = "ended"  # the first terminal report, which counts
    REFRESHED = "refreshed"  # a poll brought fresh URLs for assets not yet archived
    EMPTY = "empty"  # succeeded without a URL: the provider is asked again
    DUPLICATE = "duplicate"  # nothing new
    LATE = "late"  # running, after the end
    CONTRADICTION = "contradiction"  # another end than the one that counts
    OTHER_ID = "other_id"  # a valid ticket with another task's report
    UNCONFIRMED = "unconfirmed"  # stored; the provider is asked (CONFIRM=always)
    UNREADABLE = "unreadable"  # stored, not understood


class EventType(StrEnum):
    """What is published through the outbox."""

    ASSET_ARCHIVED = "asset.archived"
    JOB_ARCHIVED = "job.archived"
    JOB_FAILED = "job.failed"
    JOB_EXPIRED = "job.expired"
    JOB_AT_RISK = "job.at_risk"


class UnstoredEventType(StrEnum):
    """Types of events that are sent once, and that no ledger has."""

    TEST = "receiver.test"


class EventDeliveryState(StrEnum):
    """State of the delivery of one event to one destination."""

    PENDING = "pending"
    SENT = "sent"
    SET_ASIDE = "set_aside"  # not tried any more after days of retries; an operator can resend it


# The folder of the archive for rejected files.
QUARANTINE = "quarantine"
# A folder of the archive that a job may name: words of which none begins with a dot, and not like
# the year of a date. As JSON Schema writes it.
FOLDER_PATTERN = rf"^(?!{QUARANTINE}(/|$))[A-Za-z_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$"
MAX_FOLDER = 200

# No provider accepts a larger number of pictures.
_MAX_REQUESTED = 10_000

# The providers' fields for the number of pictures.
_COUNT_PARAMS = ("n", "variants", "num_images", "num_outputs")

# Prefix of a picture's index, in place of a URL: the ledger has the answer with its bytes.
INLINE = "delivery:"


@dataclass(frozen=True, slots=True)
class Mark:
    """Data in a file that says where it comes from.

    ``kind`` is one of MARK_KINDS, ``name`` is where it stands in its format, as in "caBX", or the
    keyword of a text; ``size`` is in bytes.
    """

    kind: str
    name: str
    size: int


# What a mark may be: Content Credentials (C2PA), another JUMBF box, the label of Chinese law, the
# label of IPTC ("digital source type"), XMP, Exif, IPTC and other text.
MARK_KINDS = ("c2pa", "jumbf", "aigc", "ai", "xmp", "exif", "iptc", "text")


@dataclass(frozen=True, slots=True)
class Result:
    """One result file as the provider announced it; the dimensions are not verified.

    ``url`` is an address, or ``delivery:<index>`` for a picture inside the provider's answer.
    """

    url: str
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """One provider message about one task, from any source.

    ``status`` is the vendor's own word; ``progress`` is 0–100; ``reason`` is set if the job failed.
    ``repaired`` names what was wrong with the body, "" if nothing was. ``left_out`` is the number
    of results beyond those that are archived. ``made_at`` is when the results were made, from which
    their URLs live, if the provider says it.
    """

    outcome: Outcome
    provider_id: str | None
    status: str
    progress: int = 0
    results: tuple[Result, ...] = ()
    reason: Reason | None = None
    message: str = ""
    repaired: str = ""
    left_out: int = 0
    made_at: float | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One report as it arrived; the raw body is stored beside what we read in it."""

    ref: str
    source: Source
    body: bytes
    received_at: float
    provider: Provider = Provider.GRSAI
    callback_proof: Proof = Proof.TASK  # by its ticket

    @property
    def proof(self) -> Proof:
        """What is proved about it; the provider's own answer to us is proved as a whole."""
        return self.callback_proof if self.source is Source.CALLBACK else Proof.BODY


@dataclass(frozen=True, slots=True)
class Submission:
    """A submit for a provider; ``params`` are the provider's own fields, passed on unchanged.

    ``key`` is the caller's own name for the job. Only one job can have it, so a repeated submit is
    not paid twice. ``batch`` and ``metadata`` (a JSON object) are the caller's too; ``folder`` is
    the folder of the archive in which the pictures are stored, "" for none. ``webhook`` is a URL
    that gets the job's events; it may be a secret.
    """

    prompt: str
    model: str
    params: dict[str, object]
    mode: Mode = Mode.WEBHOOK
    provider: Provider = Provider.GRSAI
    api: Api = Api.DRAW
    key: str | None = None
    batch: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    folder: str = ""
    webhook: str | None = field(default=None, repr=False)

    @property
    def requested(self) -> int | None:
        """How many pictures are asked for; None if the params do not say it."""
        named = (self.params[name] for name in _COUNT_PARAMS if name in self.params)
        asked = next(named, None)
        if isinstance(asked, bool) or not isinstance(asked, int):
            return None
        return asked if 1 <= asked <= _MAX_REQUESTED else None


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things may take, in seconds: the settings of the same names.

    ``lifetimes`` are those of the URLs of providers that document another one.
    """

    url_lifetime: float
    poll_after: float
    poll_interval: float
    job_timeout: float
    lifetimes: Mapping[str, float] = field(default_factory=dict)

    def lifetime(self, provider: str) -> float:
        """Return how long a provider's result URLs live."""
        return self.lifetimes.get(provider, self.url_lifetime)


def risk_begins(expires_at: float, lifetime: float) -> float:
    """Return when an asset counts as at risk: in the last quarter of its URL's ``lifetime``."""
    return expires_at - lifetime / 4


# The last time a ULID can represent, in the year 10889.
_END_OF_TIME = float(2**48 - 1) / 1000


def new_ref(now: float) -> str:
    """Return a new ref: a ULID, which sorts by time and contains it."""
    return str(ULID.from_timestamp(now))


def first_ref(moment: float) -> str:
    """Return the smallest possible ref of a moment (seconds since the epoch)."""
    milliseconds = int(min(max(moment, 0.0), _END_OF_TIME) * 1000)
    return str(ULID.from_bytes(milliseconds.to_bytes(6, "big") + bytes(10)))


def ref_time(ref: str) -> datetime:
    """Return the time in a ref, in UTC; the archive's folders are named after it."""
    return ULID.from_str(ref).datetime.astimezone(UTC)


def is_folder(text: str) -> bool:
    """Return whether a job may name this folder of the archive; it never leaves the archive."""
    return len(text) <= MAX_FOLDER and bool(re.fullmatch(FOLDER_PATTERN, text))


def timestamp(moment: float | None) -> str | None:
    """Return a moment (seconds since the epoch) as RFC 3339 with milliseconds; None stays None."""
    return (
        None
        if moment is None
        else datetime.fromtimestamp(moment, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )
