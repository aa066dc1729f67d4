"""The first schema: jobs, deliveries, assets, events, hints."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "hints",
        sa.Column("provider_id", sa.Text(), nullable=False),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.Column("claim", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("provider_id"),
    )
    op.create_table(
        "jobs",
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("base_url", sa.Text(), nullable=False),
        sa.Column("provider_id", sa.Text(), nullable=True),
        sa.Column("api", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("params", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), server_default="", nullable=False),
        sa.Column("progress", sa.Integer(), server_default="0", nullable=False),
        sa.Column("submitted_at", sa.Double(), nullable=False),
        sa.Column("deadline_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("round", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due_at", sa.Double(), nullable=True),
        sa.Column("claim", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "(state = 'failed') = (reason IS NOT NULL)", name=op.f("ck_jobs_reason_iff_failed")
        ),
        sa.CheckConstraint(
            "(state IN ('archived', 'failed', 'expired')) = (finished_at IS NOT NULL)",
            name=op.f("ck_jobs_final_is_finished"),
        ),
        sa.CheckConstraint("api IN ('draw', 'api', 'images')", name=op.f("ck_jobs_api")),
        sa.CheckConstraint(
            "mode IN ('webhook', 'poll', 'stream', 'sync')", name=op.f("ck_jobs_mode")
        ),
        sa.CheckConstraint("outcome IN ('succeeded', 'failed')", name=op.f("ck_jobs_outcome")),
        sa.CheckConstraint(
            "reason IN ('refused', 'input_moderation', 'output_moderation', 'violation', "
            "'provider_error', 'no_result', 'bad_asset')",
            name=op.f("ck_jobs_reason"),
        ),
        sa.CheckConstraint(
            "state IN ('submitting', 'waiting', 'archiving', 'archived', 'failed', 'expired')",
            name=op.f("ck_jobs_state"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('archiving', 'archived') OR (outcome IS NOT NULL AND outcome = "
            "'succeeded')",
            name=op.f("ck_jobs_archiving_succeeded"),
        ),
        sa.CheckConstraint(
            "(finished_at IS NULL) = (due_at IS NOT NULL)", name=op.f("ck_jobs_due_until_finished")
        ),
        sa.CheckConstraint(
            "claim IS NULL OR finished_at IS NULL", name=op.f("ck_jobs_claim_is_unfinished")
        ),
        sa.CheckConstraint("progress BETWEEN 0 AND 100", name=op.f("ck_jobs_progress")),
        sa.PrimaryKeyConstraint("ref"),
    )
    op.create_index(
        "ix_jobs_due",
        "jobs",
        ["due_at"],
        unique=False,
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index("ix_jobs_state", "jobs", ["state", "ref"], unique=False)
    op.create_index("uq_jobs_key", "jobs", ["key"], unique=True)
    op.create_index("uq_jobs_provider_id", "jobs", ["provider", "provider_id"], unique=True)
    op.create_table(
        "assets",
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("idx", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("announced_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=True),
        sa.Column("claim", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("error", sa.Text(), server_default="", nullable=False),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("content_type", sa.Text(), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.CheckConstraint(
            "(state = 'pending') = (due_at IS NOT NULL)", name=op.f("ck_assets_pending_iff_due")
        ),
        sa.CheckConstraint(
            "(state = 'pending') = (finished_at IS NULL)",
            name=op.f("ck_assets_pending_iff_unfinished"),
        ),
        sa.CheckConstraint(
            "claim IS NULL OR state = 'pending'", name=op.f("ck_assets_claim_is_pending")
        ),
        sa.CheckConstraint(
            "state <> 'archived' OR (key IS NOT NULL AND sha256 IS NOT NULL AND "
            "length(sha256) = 64 "
            "AND size IS NOT NULL AND size > 0 AND content_type IS NOT NULL)",
            name=op.f("ck_assets_archived_is_known"),
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'archived', 'failed', 'expired')", name=op.f("ck_assets_state")
        ),
        sa.ForeignKeyConstraint(
            ["ref"],
            ["jobs.ref"],
        ),
        sa.PrimaryKeyConstraint("ref", "idx"),
        sa.UniqueConstraint("key", name=op.f("uq_assets_key")),
    )
    op.create_index(
        "ix_assets_deadline",
        "assets",
        ["expires_at"],
        unique=False,
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index(
        "ix_assets_due",
        "assets",
        ["due_at"],
        unique=False,
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_table(
        "deliveries",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint(
            "source IN ('callback', 'poll', 'stream', 'sync')", name=op.f("ck_deliveries_source")
        ),
        sa.CheckConstraint(
            "verdict IN ('progress', 'ended', 'refreshed', 'empty', 'duplicate', 'late', "
            "'contradiction', 'other_id', 'unconfirmed', 'unreadable')",
            name=op.f("ck_deliveries_verdict"),
        ),
        sa.ForeignKeyConstraint(
            ["ref"],
            ["jobs.ref"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_deliveries_ref"), "deliveries", ["ref"], unique=False)
    op.create_table(
        "events",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("idx", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "type IN ('asset.archived', 'job.archived', 'job.failed', 'job.expired', "
            "'job.at_risk')",
            name=op.f("ck_events_type"),
        ),
        sa.ForeignKeyConstraint(
            ["ref"],
            ["jobs.ref"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint(
            "ref", "idx", "type", "round", name=op.f("uq_events_ref_idx_type_round")
        ),
    )
