"""Queries and answers of the API. ``submitter --json`` and batch reports use the same job object.

The OpenAPI description is generated from these models.
"""

import re
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)

from receiver.jobs.job_object import SHA256, JobView
from receiver.ledger.queries.audit import Audit
from receiver.ledger.queries.job_list import Wanted
from receiver.ledger.rows import DeliveryEntry
from receiver.model import Decision, EventType, JobState, Proof, Reason, Source, timestamp

# A ULID as we write it.
REF = "[0-7][0-9A-HJKMNP-TV-Z]{25}"
# Databases cannot store NUL, so it cannot be searched for.
_WORDS = r"^[^\x00]*$"


def _digits(value: object) -> object:
    """Accept only digits: other spellings of numbers are most likely mistakes."""
    if isinstance(value, str):
        if not re.fullmatch(r"[0-9]{1,18}", value):
            raise ValueError("write a number in digits")
        return int(value)
    return value


def _moment(value: object) -> object:
    """Accept a moment only in the format of RFC 3339, not as a number."""
    if isinstance(value, str) and value and not re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]", value):
        raise ValueError("write a moment as in 2026-07-01T12:00:00Z")
    return value or None


def _cursor(value: object) -> object:
    """Refuse text that is not a ref; otherwise the message would be the pattern."""
    if isinstance(value, str) and value and not re.fullmatch(REF, value):
        raise ValueError("write the ref that is `next` in the previous page")
    return value


Digits = BeforeValidator(_digits)
_STATES = {"type": "string", "enum": [*JobState, ""]}
State = Annotated[
    JobState | None, BeforeValidator(lambda value: value or None), WithJsonSchema(_STATES)
]
_REASONS = {"type": "string", "enum": [*Reason, ""]}
WhyFailed = Annotated[
    Reason | None, BeforeValidator(lambda value: value or None), WithJsonSchema(_REASONS)
]
_MOMENT = {"anyOf": [{"type": "string", "format": "date-time"}, {"const": ""}]}
Moment = Annotated[AwareDatetime | None, BeforeValidator(_moment), WithJsonSchema(_MOMENT)]
# The fields differ by type of event; an archived file has its location. ``link`` is null without
# PUBLIC_URL. ``job`` is the job object as it is when the event is sent.
_EVENT_DATA = {
    "type": "object",
    "properties": {
        "ref": {"type": "string"},
        "index": {"type": "integer"},
        "job_key": {"type": ["string", "null"]},
        "bucket": {"type": ["string", "null"]},
        "key": {"type": "string"},
        "url": {"type": "string"},
        "link": {"type": ["string", "null"]},
        "job": {"type": "object"},
    },
    "required": ["ref", "link"],
    "additionalProperties": True,
}
Words = Annotated[str, StringConstraints(max_length=500, pattern=_WORDS)]


class JobsQuery(BaseModel):
    """Which jobs are listed.

    ``q`` has words in any order and case; each is a part of the ref, provider's id, key, batch,
    model or prompt. Words in scripts without spaces are found too. ``metadata`` is ``NAME=VALUE``,
    or ``NAME`` for any value. ``folder`` is the whole folder that the jobs named. ``after`` is the
    ``next`` of the previous page. ``key`` names the job that has this key, ``refs`` up to 200 jobs,
    with commas between them; then nothing else counts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: State = None
    q: Words = ""
    model: Words = ""
    since: Moment = None
    until: Moment = None
    batch: Words = ""
    reason: WhyFailed = None
    metadata: Words = ""
    folder: Words = ""
    limit: Annotated[int, Field(ge=1, le=500), Digits] = 50
    after: Annotated[str, StringConstraints(pattern=f"^({REF})?$"), BeforeValidator(_cursor)] = ""
    key: Words = ""
    refs: Annotated[str, StringConstraints(pattern=f"^({REF}(,{REF}){{0,199}})?$")] = ""

    def wanted(self) -> Wanted:
        """Return the ledger's filter."""
        return Wanted(
            self.state,
            self.model,
            self.q.strip(),
            seconds_of(self.since),
            seconds_of(self.until),
            self.batch,
            self.reason,
            metadata_filter(self.metadata),
            self.folder,
        )


class EventsQuery(BaseModel):
    """Which events are listed: those with numbers above ``after``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    after: Annotated[int, Field(ge=0, lt=10**18), Digits] = 0
    limit: Annotated[int, Field(ge=1, le=500), Digits] = 100


class AssetQuery(BaseModel):
    """``link=1`` asks for a link to the bytes instead of the bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    link: Literal["", "0", "1"] = ""


class AcceptQuery(BaseModel):
    """``sha256`` of the rejected file that is meant: a retry may have brought another one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""


class JobList(BaseModel):
    """A page of jobs, newest first; ``next`` is the ``after`` of the next page, null at the end.

    A text search reads a limited number of jobs at a time, so a page with a ``next`` may be short
    or even empty.
    """

    jobs: list[JobView]
    next: str | None


class EventView(BaseModel):
    """An event, as webhooks and ``receiver listen`` deliver it.

    ``id`` is unique and never changes; ``number`` is its position in this ledger, for ``after``;
    ``receiver_version`` is the release that delivers it.
    """

    id: str
    number: int
    type: EventType
    timestamp: str
    receiver_version: str
    data: Annotated[dict[str, Any], WithJsonSchema(_EVENT_DATA)]


class EventList(BaseModel):
    """Events, oldest first; ``next`` is the next ``after``, null if there are no events yet."""

    events: list[EventView]
    next: int | None


class DeliveryView(BaseModel):
    """One report about a job and the decision about it; ``size`` is its body's, in bytes.

    ``repaired`` names what was wrong with the body, "" if nothing was. ``proof`` is what is proved
    about it, null if an earlier release stored it.
    """

    id: int
    source: Source
    verdict: Decision
    received_at: str
    sha256: Annotated[str, Field(pattern=SHA256)]
    size: int
    repaired: str
    proof: Proof | None = None

    @classmethod
    def of(cls, row: DeliveryEntry) -> Self:
        """Show one delivery without its body."""
        source, verdict, moment = (
            Source(row.source),
            Decision(row.verdict),
            timestamp(row.received_at) or "",
        )
        return cls(
            id=row.id,
            source=source,
            verdict=verdict,
            received_at=moment,
            sha256=row.digest,
            size=row.size,
            repaired=row.repaired,
            proof=Proof(row.proof) if row.proof else None,
        )


class DeliveryList(BaseModel):
    """All deliveries of a job, in the order of arrival."""

    deliveries: list[DeliveryView]


class VerdictView(BaseModel):
    """The new decision about a delivery."""

    id: int
    verdict: Decision


class LinkView(BaseModel):
    """A link to an archived file that needs no token, until ``expires_at`` (RFC 3339).

    ``expires_at`` is null if the link lasts.
    """

    url: str
    expires_at: str | None


class AuditQuery(BaseModel):
    """Query of the audit; ``whole`` examines the jobs that were submitted over two days ago too."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    whole: bool = False


class AuditView(BaseModel):
    """The counts of all jobs; ``broken`` has violated invariants and the refs."""

    ok: bool
    submitted: int
    archived: int
    failed: int
    expired: int
    in_flight: int
    difference: int
    broken: dict[str, list[str]]

    @classmethod
    def of(cls, found: Audit) -> Self:
        """Show what an audit found."""
        ends = {
            "archived": found.archived,
            "failed": found.failed,
            "expired": found.expired,
            "in_flight": found.in_flight,
        }
        return cls(
            ok=found.ok,
            submitted=found.submitted,
            **ends,
            difference=found.difference,
            broken=found.broken,
        )


class ProblemView(BaseModel):
    """An error in the format of RFC 9457; ``title`` names the status, ``detail`` is for people."""

    type: Literal["about:blank"] = "about:blank"
    title: str
    status: int
    detail: str


def seconds_of(moment: datetime | None) -> float | None:
    """Return a moment as seconds since the epoch; None stays None."""
    return None if moment is None else moment.timestamp()


def metadata_filter(text: str) -> tuple[str, str | None] | None:
    """Return name and value in ``NAME=VALUE``; the value is None for any, all is None for ""."""
    name, equals, value = text.partition("=")
    return (name, value if equals else None) if text else None
