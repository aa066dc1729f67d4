"""Which callback secret signed a job's ticket."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column that may be NULL: jobs posted before, or without a callback URL."""
    op.add_column("jobs", sa.Column("signer", sa.Text()))
