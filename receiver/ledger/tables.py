"""The tables of the ledger; the rules for every row are CHECK and UNIQUE constraints.

Times are seconds since the epoch (UTC, double precision). ``due_at`` is when a row should be worked
on. A claim sets ``claim`` and moves ``due_at`` to the end of its lease. So ``due_at`` means both
"not before this time" and "not while a worker has the row".
"""

from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TextClause,
    UniqueConstraint,
    literal_column,
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


def one_of(column: str, values: type[StrEnum]) -> str:
    """Return the SQL condition that ``column`` has one of these values (or is NULL)."""
    return f"{column} IN ({', '.join(repr(word.value) for word in values)})"


def _partial_index(
    name: str, *columns: Column[Any], where: ColumnElement[bool] | TextClause
) -> None:
    """Declare an index of the rows that fulfil a condition, in both databases."""
    Index(name, *columns, sqlite_where=where, postgresql_where=where)


# SQLite numbers rows only for "INTEGER PRIMARY KEY"; PostgreSQL needs more than 2^31 numbers.
RowNumber = BigInteger().with_variant(Integer, "sqlite")

jobs = Table(
    "jobs",
    metadata,
    Column("ref", Text, primary_key=True),  # ULID: sorts by time
    Column("provider", Text, nullable=False),
    Column("base_url", Text, nullable=False),  # the host it was posted to, and is polled at
    Column("provider_id", Text),
    Column("api", Text, nullable=False),  # the API it was posted to, and is polled in
    Column("mode", Text, nullable=False),
    Column("model", Text, nullable=False),  # "" if adopted: we never saw the request
    Column("prompt", Text, nullable=False),
    Column("params", Text, nullable=False),  # JSON object: what else was sent, without callback URL
    Column("key", Text),  # the caller's own name for it
    Column("state", Text, nullable=False),
    Column("outcome", Text),  # of the provider's first terminal report
    Column("reason", Text),
    Column("message", Text, nullable=False, server_default=""),
    Column("progress", Integer, nullable=False, server_default="0"),  # 0-100, the provider's word
    Column("submitted_at", Double, nullable=False),
    Column("deadline_at", Double, nullable=False),  # without a result by then: expired
    Column("ended_at", Double),  # when the first terminal report was stored
    Column("finished_at", Double),  # when the job reached its final state
    Column("round", Integer, nullable=False, server_default="0"),  # + 1 with each operator's retry
    Column("due_at", Double),
    Column("claim", Text),
    Column("attempts", Integer, nullable=False, server_default="0"),
    # Claims in a row that ended because the worker crashed.
    Column("crashes", Integer, nullable=False, server_default="0"),
    Column("requested", Integer),  # pictures asked for; NULL if the request does not say it
    # Results of the success that are not archived, because they are too many.
    Column("left_out", Integer, nullable=False, server_default="0"),
    # The fingerprint of the callback secret that signed its ticket; NULL: it has none, was adopted,
    # or was posted by a release that did not record it.
    Column("signer", Text),
    Column("batch", Text),  # the caller's name for the jobs of one run
    Column("metadata", Text, nullable=False, server_default="{}"),  # the caller's JSON object
    Column("folder", Text, nullable=False, server_default=""),  # its place in the archive
    Column("answered_at", Double),  # when the answer to the submit was stored
    # The params with long texts shortened, to be shown; NULL: the params are short enough.
    Column("shown", Text),
    # Where the provider said to ask for the task; NULL: that follows from its id.
    Column("poll_url", Text),
    Column("webhook", Text),  # a URL that gets its events too; it may be a secret
    CheckConstraint(one_of("state", JobState), name="state"),
    CheckConstraint(one_of("api", Api), name="api"),
    CheckConstraint(one_of("mode", Mode), name="mode"),
    CheckConstraint("outcome IN ('succeeded', 'failed')", name="outcome"),
    CheckConstraint(one_of("reason", Reason), name="reason"),
    # A failed job has a reason, all others have none.
    CheckConstraint("(state = 'failed') = (reason IS NOT NULL)", name="reason_iff_failed"),
    CheckConstraint(
        "(state IN ('archived', 'failed', 'expired')) = (finished_at IS NOT NULL)",
        name="final_is_finished",
    ),
    # No silent job: unfinished jobs are due at some time, finished ones never.
    CheckConstraint("(finished_at IS NULL) = (due_at IS NOT NULL)", name="due_until_finished"),
    CheckConstraint("claim IS NULL OR finished_at IS NULL", name="claim_is_unfinished"),
    # A CHECK accepts NULL, so NOT NULL is required explicitly.
    CheckConstraint(
        "state NOT IN ('archiving', 'archived') OR (outcome IS NOT NULL AND outcome = 'succeeded')",
        name="archiving_succeeded",
    ),
    CheckConstraint("progress BETWEEN 0 AND 100", name="progress"),
)
# The columns that are read by default. ``params`` may have megabytes of reference pictures,
# ``signer`` matters in rotations only, and the others only where a job is shown.
_RARELY_READ = ("params", "signer", "metadata", "shown", "webhook")
job_columns = [column for column in jobs.columns if column.name not in _RARELY_READ]

# One task of a provider is one job. A callback without a ticket finds its job by this index too.
Index("uq_jobs_provider_id", jobs.c.provider, jobs.c.provider_id, unique=True)
# A caller's key is used by one job.
Index("uq_jobs_key", jobs.c.key, unique=True)
_partial_index("ix_jobs_due", jobs.c.due_at, where=jobs.c.due_at.isnot(None))
Index("ix_jobs_state", jobs.c.state, jobs.c.ref)
Index("ix_jobs_model", jobs.c.model, jobs.c.ref)
_partial_index("ix_jobs_batch", jobs.c.batch, jobs.c.ref, where=jobs.c.batch.isnot(None))
# Written as a literal: the planners use a partial index only for exactly its condition.
HAS_FOLDER: ColumnElement[bool] = jobs.c.folder != literal_column("''")
_partial_index("ix_jobs_folder", jobs.c.folder, jobs.c.ref, where=HAS_FOLDER)
_partial_index("ix_jobs_crashed", jobs.c.ref, where=jobs.c.crashes > 0)

# The searchable values of the jobs' metadata, each as text.
job_metadata = Table(
    "job_metadata",
    metadata,
    Column("ref", Text, ForeignKey("jobs.ref"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
Index("ix_job_metadata_name", job_metadata.c.name, job_metadata.c.value, job_metadata.c.ref)
Index("ix_job_metadata_any", job_metadata.c.name, job_metadata.c.ref)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", RowNumber, primary_key=True, autoincrement=True),
    Column("ref", Text, ForeignKey("jobs.ref"), nullable=False, index=True),
    Column("source", Text, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("received_at", Double, nullable=False),
    Column("digest", Text, nullable=False),  # SHA-256 of the body, hex
    Column("body", LargeBinary, nullable=False),  # as received
    # What was wrong with the body and was repaired to read it, as in "not UTF-8, NaN".
    Column("repaired", Text, nullable=False, server_default=""),
    # What is proved about it; NULL: stored by a release that did not record it.
    Column("proof", Text),
    Column("dismissed_at", Double),  # when an operator dismissed an unreadable one
    CheckConstraint(one_of("source", Source), name="source"),
    CheckConstraint(one_of("verdict", Decision), name="verdict"),
)
_unreadable = deliveries.c.verdict == Decision.UNREADABLE.value
_partial_index("ix_deliveries_unreadable", deliveries.c.id, where=_unreadable)

assets = Table(
    "assets",
    metadata,
    Column("ref", Text, ForeignKey("jobs.ref"), primary_key=True),
    Column("idx", Integer, primary_key=True),  # position in the job's results, from 0
    Column("state", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("announced_at", Double, nullable=False),  # when this URL was received
    Column("expires_at", Double, nullable=False),  # when this URL expires
    Column("due_at", Double),
    Column("claim", Text),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("error", Text, nullable=False, server_default=""),  # of the last attempt
    Column("key", Text),
    Column("sha256", Text),  # hex
    Column("size", BigInteger),
    Column("content_type", Text),
    Column("width", Integer),
    Column("height", Integer),
    Column("finished_at", Double),
    # Claims in a row that ended because the worker crashed.
    Column("crashes", Integer, nullable=False, server_default="0"),
    # The Content-Encoding that was decoded on the way into the archive, as in "gzip".
    Column("decoded", Text, nullable=False, server_default=""),
    # The last downloaded file that failed inspection: hash, size, the type that its server claimed,
    # and what is wrong with it.
    Column("rejected_sha256", Text),
    Column("rejected_size", BigInteger),
    Column("rejected_type", Text),
    Column("rejected_reason", Text),
    Column("quarantined_at", Double),  # since when it is kept; NULL: it is not kept
    Column("accepted_at", Double),  # when an operator accepted it as the result
    # Mistakes in the archived file that viewers tolerate.
    Column("defect", Text, nullable=False, server_default=""),
    # JSON array of the marks of origin in the archived file, "" if there are none.
    Column("marks", Text, nullable=False, server_default=""),
    # Why the archived picture cannot be decoded, "" if it can; NULL until that is tried.
    Column("doubt", Text, server_default=""),
    Column("folder", Text, nullable=False, server_default=""),  # the job's, a part of its key
    CheckConstraint(one_of("state", AssetState), name="state"),
    CheckConstraint("(state = 'pending') = (due_at IS NOT NULL)", name="pending_iff_due"),
    CheckConstraint("(state = 'pending') = (finished_at IS NULL)", name="pending_iff_unfinished"),
    CheckConstraint("claim IS NULL OR state = 'pending'", name="claim_is_pending"),
    # An archived asset has a location and a known content.
    CheckConstraint(
        "state <> 'archived' OR (key IS NOT NULL AND sha256 IS NOT NULL AND length(sha256) = 64 "
        "AND size IS NOT NULL AND size > 0 AND content_type IS NOT NULL)",
        name="archived_is_known",
    ),
    UniqueConstraint("key"),
)
# Deadline first: claims read this index from the URL that expires next. The planners infer its
# condition from "due_at <= now". With the other columns they pass by assets that are not due, or
# were tried often, without reading their rows.
_partial_index(
    "ix_assets_deadline",
    assets.c.expires_at,
    assets.c.attempts,
    assets.c.due_at,
    where=assets.c.due_at.isnot(None),
)
_partial_index("ix_assets_due", assets.c.due_at, where=assets.c.due_at.isnot(None))
_partial_index("ix_assets_crashed", assets.c.ref, assets.c.idx, where=assets.c.crashes > 0)

# The quarantine, oldest first. The planners use it for the sum of sizes without reading the table.
_partial_index(
    "ix_assets_quarantined",
    assets.c.quarantined_at,
    assets.c.rejected_size,
    where=assets.c.quarantined_at.isnot(None),
)
_partial_index("ix_assets_untried", assets.c.finished_at, where=assets.c.doubt.is_(None))

# Failed attempts to archive an asset; the last error is in the asset too.
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
    Column("idx", Integer, nullable=False),  # the asset; -1 if the event is about the job
    Column("round", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("payload", Text, nullable=False),  # JSON object
    # 1: restored from the archive; it was delivered long ago.
    Column("rebuilt", Integer, nullable=False, server_default="0"),
    CheckConstraint(one_of("type", EventType), name="type"),
    # An event happens once per round; an operator's retry starts a new one.
    UniqueConstraint("ref", "idx", "type", "round"),
)
Index("ix_events_type", events.c.type, events.c.id)

# Destinations of events. One that is removed from EVENT_URLS keeps its cursor.
destinations = Table(
    "destinations",
    metadata,
    Column("name", Text, primary_key=True),
    Column("cursor", RowNumber, nullable=False),  # the last event for which a delivery was queued
    # When an operator last asked to send what waits at once; ends a pause that began earlier.
    Column("expedited_at", Double),
)

# Event deliveries: one event to one destination.
sendings = Table(
    "sendings",
    metadata,
    Column("destination", Text, ForeignKey("destinations.name"), primary_key=True),
    Column("event", RowNumber, ForeignKey("events.id"), primary_key=True, autoincrement=False),
    Column("ref", Text, nullable=False),  # the event's job
    Column("state", Text, nullable=False),
    Column("since", Double, nullable=False),  # start of the attempts, which are limited in time
    # NULL while an earlier event of the same job is pending: they are delivered in order.
    Column("due_at", Double),
    Column("claim", Text),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("error", Text, nullable=False, server_default=""),  # of the last attempt
    Column("finished_at", Double),
    CheckConstraint(one_of("state", EventDeliveryState), name="state"),
    CheckConstraint("(state = 'pending') = (finished_at IS NULL)", name="pending_iff_unfinished"),
    CheckConstraint("due_at IS NULL OR state = 'pending'", name="due_is_pending"),
    CheckConstraint("claim IS NULL OR due_at IS NOT NULL", name="claim_is_due"),
)
# The planners use a partial index only for exactly its condition.
_DUE = "due_at IS NOT NULL"
for _name, _columns, _condition in (
    ("ix_sendings_due", ("destination", "due_at"), _DUE),
    # In the order in which deliveries are claimed.
    ("ix_sendings_untried", ("destination", "due_at"), f"{_DUE} AND attempts = 0"),
    ("ix_sendings_few", ("destination", "due_at"), f"{_DUE} AND attempts > 0 AND attempts < 3"),
    ("ix_sendings_several", ("destination", "due_at"), f"{_DUE} AND attempts >= 3"),
    ("ix_sendings_turn", ("destination", "ref", "event"), "state = 'pending'"),
    ("ix_sendings_sent", ("finished_at",), "state = 'sent'"),
    ("ix_sendings_set_aside", ("event",), "state = 'set_aside'"),
    ("ix_sendings_given_up", ("destination", "event"), "state = 'set_aside'"),
    ("ix_sendings_failing", ("destination", "event"), "state = 'pending' AND error <> ''"),
):
    _partial_index(_name, *(sendings.c[column] for column in _columns), where=text(_condition))

# For the check of the foreign key when events are pruned.
Index("ix_sendings_event", sendings.c.event)

# Hints: provider ids from callbacks without a ticket, to be verified with the provider.
hints = Table(
    "hints",
    metadata,
    Column("provider_id", Text, primary_key=True),
    Column("received_at", Double, nullable=False),
    Column("due_at", Double, nullable=False),
    Column("claim", Text),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("body", LargeBinary),  # compared with the provider's own answer later
)

# Heartbeats: each worker process writes its row every few seconds, and deletes it at its end.
workers = Table(
    "workers",
    metadata,
    Column("name", Text, primary_key=True),  # random, one for each process
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", Text, nullable=False),  # of its release
    # Both by the clock of the database, because the clocks of machines differ; with SQLite by ours.
    Column("started_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
    Column("report", Text, nullable=False),  # JSON object: free disk space, and other facts
)

# Names and values that identify this ledger: see ``receiver.ledger.identity``.
identity = Table(
    "identity",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

# The tables that are about jobs. The others are about one installation, and a copy has its own.
job_tables = [table for table in metadata.sorted_tables if table not in (workers, identity)]
