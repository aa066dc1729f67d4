"""What a caller says about a job: batch, metadata, folder; and when its submit was answered."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns that code of the release before never names, and the index of the metadata."""
    for column in (
        sa.Column("batch", sa.Text()),
        sa.Column("metadata", sa.Text(), server_default="{}", nullable=False),
        sa.Column("folder", sa.Text(), server_default="", nullable=False),
        sa.Column("answered_at", sa.Double()),
        sa.Column("shown", sa.Text()),
    ):
        op.add_column("jobs", column)
    op.create_index(
        "ix_jobs_batch",
        "jobs",
        ["batch", "ref"],
        sqlite_where=sa.text("batch IS NOT NULL"),
        postgresql_where=sa.text("batch IS NOT NULL"),
    )
    op.add_column("assets", sa.Column("folder", sa.Text(), server_default="", nullable=False))
    op.create_table(
        "job_metadata",
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["ref"], ["jobs.ref"]),
        sa.PrimaryKeyConstraint("ref", "name"),
    )
    op.create_index("ix_job_metadata_name", "job_metadata", ["name", "value", "ref"])
