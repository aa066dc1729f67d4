"""The tables of the ledger; the rules that must hold for every row are CHECK and UNIQUE constraints here.

Times are seconds since the epoch (UTC, double precision). ``due_at`` is when a row wants to be worked on; a claim moves it to the end of
its lease and sets ``claim``, so one column says both "not before" and "not while somebody has it".
"""

from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from receiver.model import (
    Api,
    AssetState,
    Decision,
    EventDeliveryState,
    EventType,
    JobState,
    Mode,
    Reason,
    Source,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


def one_of(column: str, words: type[StrEnum]) -> str:
    """Say in SQL that ``column`` holds one of the words (or nothing, where the column may be null)."""
    return f"{column} IN ({', '.join(repr(word.value) for word in words)})"


# SQLite gives a rowid only to "INTEGER PRIMARY KEY"; PostgreSQL wants room for more than 2^31 rows.
RowNumber = BigInteger().with_variant(Integer, "sqlite")

jobs = Table(
    "jobs",
    metadata,
    Column("ref", Text, primary_key=True),  # ULID: sorts by time
    Column("provider", Text, nullable=False),
    Column(
        "base_url", Text, nullable=False
    ),  # the host it was posted to; its result is asked there too
    Column("provider_id", Text),
    Column("api", Text, nullable=False),  # the dialect it was posted in, and is asked for in
    Column("mode", Text, nullable=False),
    Column(
        "model", Text, nullable=False
    ),  # "" where a job was adopted and we never saw the request
    Column("prompt", Text, nullable=False),
    Column(
        "params", Text, nullable=False
    ),  # JSON object: what else was sent, without the callback URL
    Column("key", Text),  # the caller's own name for it
    Column("state", Text, nullable=False),
    Column("outcome", Text),  # what the provider's first terminal report said
    Column("reason", Text),
    Column("message", Text, nullable=False, server_default=""),
    Column("progress", Integer, nullable=False, server_default="0"),  # 0-100, the provider's word
    Column("submitted_at", Double, nullable=False),
    Column("deadline_at", Double, nullable=False),  # no word of a result by then: expired
    Column("ended_at", Double),  # when the first terminal report was stored
    Column("finished_at", Double),  # when the job reached its final state
    Column(
        "round", Integer, nullable=False, server_default="0"
    ),  # grows with each retry by an operator
    Column("due_at", Double),
    Column("claim", Text),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column(
        "crashes", Integer, nullable=False, server_default="0"
    ),  # claims in a row that ended without a word
    CheckConstraint(one_of("state", JobState), name="state"),
    CheckConstraint(one_of("api", Api), name="api"),
    CheckConstraint(one_of("mode", Mode), name="mode"),
    CheckConstraint("outcome IN ('succeeded', 'failed')", name="outcome"),
    CheckConstraint(one_of("reason", Reason), name="reason"),
    # A failed job says why, and no other state has a reason to.
    CheckConstraint("(state = 'failed') = (reason IS NOT NULL)", name="reason_iff_failed"),
    CheckConstraint(
        "(state IN ('archived', 'failed', 'expired')) = (finished_at IS NOT NULL)",
        name="final_is_finished",
    ),
    # No silent job: what is not over is due at some moment, and what is over never again.
    CheckConstraint("(finished_at IS NULL) = (due_at IS NOT NULL)", name="due_until_finished"),
    CheckConstraint("claim IS NULL OR finished_at IS NULL", name="claim_is_unfinished"),
    # A CHECK lets NULL pass, so what must be known is asked for by name.
    CheckConstraint(
        "state NOT IN ('archiving', 'archived') OR (outcome IS NOT NULL AND outcome = 'succeeded')",
        name="archiving_succeeded",
    ),
    CheckConstraint("progress BETWEEN 0 AND 100", name="progress"),
)
# What is read of a job by default. Params may hold reference pictures of many megabytes, which few want to see.
job_columns = [column for column in jobs.columns if column.name != "params"]

# One task of a provider is one job; also how a callback without a ticket finds its job.
Index("uq_jobs_provider_id", jobs.c.provider, jobs.c.provider_id, unique=True)
# A caller's key is spent by one job.
Index("uq_jobs_key", jobs.c.key, unique=True)
Index(
    "ix_jobs_due",
    jobs.c.due_at,
    sqlite_where=jobs.c.due_at.isnot(None),
    postgresql_where=jobs.c.due_at.isnot(None),
)
Index("ix_jobs_state", jobs.c.state, jobs.c.ref)
Index("ix_jobs_model", jobs.c.model, jobs.c.ref)
Index(
    "ix_jobs_crashed",
    jobs.c.ref,
    sqlite_where=jobs.c.crashes > 0,
    postgresql_where=jobs.c.crashes > 0,
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", RowNumber, primary_key=True, autoincrement=True),
    Column("ref", Text, ForeignKey("jobs.ref"), nullable=False, index=True),
    Column("source", Text, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("received_at", Double, nullable=False),
    Column("digest", Text, nullable=False),  # SHA-256 of the body, hex
    Column("body", LargeBinary, nullable=False),  # as it came
    CheckConstraint(one_of("source", Source), name="source"),
    CheckConstraint(one_of("verdict", Decision), name="verdict"),
)
_unreadable = deliveries.c.verdict == Decision.UNREADABLE.value
Index(
    "ix_deliveries_unreadable",
    deliveries.c.id,
    sqlite_where=_unreadable,
    postgresql_where=_unreadable,
)

assets = Table(
    "assets",
    metadata,
    Column("ref", Text, ForeignKey("jobs.ref"), primary_key=True),
    Column("idx", Integer, primary_key=True),  # place among the job's results, from 0
    Column("state", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("announced_at", Double, nullable=False),  # when this URL came
    Column("expires_at", Double, nullable=False),  # when this URL dies
    Column("due_at", Double),
    Column("claim", Text),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("error", Text, nullable=False, server_default=""),  # what the last attempt met
    Column("key", Text),
    Column("sha256", Text),  # hex
    Column("size", BigInteger),
    Column("content_type", Text),
    Column("width", Integer),
    Column("height", Integer),
    Column("finished_at", Double),
    Column(
        "crashes", Integer, nullable=False, server_default="0"
    ),  # claims in a row that ended without a word
    CheckConstraint(one_of("state", AssetState), name="state"),
    CheckConstraint("(state = 'pending') = (due_at IS NOT NULL)", name="pending_iff_due"),
    CheckConstraint("(state = 'pending') = (finished_at IS NULL)", name="pending_iff_unfinished"),
    CheckConstraint("claim IS NULL OR state = 'pending'", name="claim_is_pending"),
    # Archived means: we know where it is and what it is.
    CheckConstraint(
        "state <> 'archived' OR (key IS NOT NULL AND sha256 IS NOT NULL AND length(sha256) = 64 "
        "AND size IS NOT NULL AND size > 0 AND content_type IS NOT NULL)",
        name="archived_is_known",
    ),
    UniqueConstraint("key"),
)
# Deadline first: claims walk this index from the URL that dies next. Its condition is the one that "due by now" implies to a planner.
Index(
    "ix_assets_deadline",
    assets.c.expires_at,
    sqlite_where=assets.c.due_at.isnot(None),
    postgresql_where=assets.c.due_at.isnot(None),
)
Index(
    "ix_assets_due",
    assets.c.due_at,
    sqlite_where=assets.c.due_at.isnot(None),
    postgresql_where=assets.c.due_at.isnot(None),
)
Index(
    "ix_assets_crashed",
    assets.c.ref,
    assets.c.idx,
    sqlite_where=assets.c.crashes > 0,
    postgresql_where=assets.c.crashes > 0,
)

# Attempts to archive an asset that came to nothing; the last one's error stands in the asset too.
attempts = Table(
    "attempts",
    metadata,
    Column("id", RowNumber, primary_key=True, autoincrement=True),
    Column("ref", Text, ForeignKey("jobs.ref"), nullable=False, index=True),
    Column("idx", Integer, nullable=False),
    Column("at", Double, nullable=False),
    Column("error", Text, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("id", RowNumber, primary_key=True, autoincrement=True),
    Column("type", Text, nullable=False),
    Column("ref", Text, ForeignKey("jobs.ref"), nullable=False),
    Column("idx", Integer, nullable=False),  # the asset; -1 where the event is about the job
    Column("round", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("payload", Text, nullable=False),  # JSON object
    Column(
        "rebuilt", Integer, nullable=False, server_default="0"
    ),  # 1: put back from the archive, and told long ago
    CheckConstraint(one_of("type", EventType), name="type"),
    # An event happens once; an operator's retry opens a new round.
    UniqueConstraint("ref", "idx", "type", "round"),
)
Index("ix_events_type", events.c.type, events.c.id)

# To whom events are told, and up to which one they have been handed over; a destination taken out of EVENT_URLS keeps its place.
destinations = Table(
    "destinations",
    metadata,
    Column("name", Text, primary_key=True),
    Column("cursor", RowNumber, nullable=False),  # the last event looked at
)

# What became of telling one event to one destination.
sendings = Table(
    "sendings",
    metadata,
    Column("destination", Text, ForeignKey("destinations.name"), primary_key=True),
    Column("event", RowNumber, ForeignKey("events.id"), primary_key=True, autoincrement=False),
    Column("ref", Text, nullable=False),  # the event's job
    Column("state", Text, nullable=False),
    Column("since", Double, nullable=False),  # when the attempts began; they end in time
    Column(
        "due_at", Double
    ),  # nothing while an earlier event of the same job is pending: events of a job are told in order
    Column("claim", Text),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("error", Text, nullable=False, server_default=""),  # what the last attempt met
    Column("finished_at", Double),
    CheckConstraint(one_of("state", EventDeliveryState), name="state"),
    CheckConstraint("(state = 'pending') = (finished_at IS NULL)", name="pending_iff_unfinished"),
    CheckConstraint("due_at IS NULL OR state = 'pending'", name="due_is_pending"),
    CheckConstraint("claim IS NULL OR due_at IS NOT NULL", name="claim_is_due"),
)
# Each with the very words of its condition: only for those do the planners use a partial index.
for _name, _columns, _condition in (
    ("ix_sendings_due", ("destination", "due_at"), "due_at IS NOT NULL"),
    ("ix_sendings_turn", ("destination", "ref", "event"), "state = 'pending'"),
    ("ix_sendings_sent", ("finished_at",), "state = 'sent'"),
    ("ix_sendings_set_aside", ("event",), "state = 'set_aside'"),
):
    Index(
        _name,
        *(sendings.c[column] for column in _columns),
        sqlite_where=text(_condition),
        postgresql_where=text(_condition),
    )

# For the check of the foreign key when events are forgotten.
Index("ix_sendings_event", sendings.c.event)

# What strangers said without a ticket: a provider's id that is worth one look, nothing more.
hints = Table(
    "hints",
    metadata,
    Column("provider_id", Text, primary_key=True),
    Column("received_at", Double, nullable=False),
    Column("due_at", Double, nullable=False),
    Column("claim", Text),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column(
        "body", LargeBinary
    ),  # what was sent with it, to be compared with the provider's own answer
)
