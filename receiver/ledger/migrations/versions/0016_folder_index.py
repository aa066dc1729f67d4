"""The index that finds the jobs of a folder."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add an index of the jobs that named a folder."""
    op.create_index(
        "ix_jobs_folder",
        "jobs",
        ["folder", "ref"],
        sqlite_where=sa.text("folder != ''"),
        postgresql_where=sa.text("folder != ''"),
    )
