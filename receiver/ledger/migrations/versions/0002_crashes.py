"""Crashes are counted; failed attempts and bodies of hints are kept; indexes for the dashboard."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_CRASHED = sa.text("crashes > 0")
_UNREADABLE = sa.text("verdict = 'unreadable'")


def upgrade() -> None:
    """Add what code of the release before never names."""
    for table in ("jobs", "assets"):
        op.add_column(table, sa.Column("crashes", sa.Integer(), server_default="0", nullable=False))
    op.add_column("hints", sa.Column("body", sa.LargeBinary(), nullable=True))
    op.create_table(
        "attempts",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("idx", sa.Integer(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["ref"], ["jobs.ref"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_attempts_ref"), "attempts", ["ref"])
    op.create_index(op.f("ix_jobs_model"), "jobs", ["model", "ref"])
    op.create_index(op.f("ix_events_type"), "events", ["type", "id"])
    op.create_index(
        op.f("ix_jobs_crashed"), "jobs", ["ref"], sqlite_where=_CRASHED, postgresql_where=_CRASHED
    )
    op.create_index(
        op.f("ix_assets_crashed"),
        "assets",
        ["ref", "idx"],
        sqlite_where=_CRASHED,
        postgresql_where=_CRASHED,
    )
    op.create_index(
        op.f("ix_deliveries_unreadable"),
        "deliveries",
        ["id"],
        sqlite_where=_UNREADABLE,
        postgresql_where=_UNREADABLE,
    )
