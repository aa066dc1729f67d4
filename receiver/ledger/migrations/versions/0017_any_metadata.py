"""The index that lists jobs by the name of a value in their metadata."""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add an index of what callers gave with their jobs; most ledgers have little of it."""
    op.create_index("ix_job_metadata_any", "job_metadata", ["name", "ref"])
