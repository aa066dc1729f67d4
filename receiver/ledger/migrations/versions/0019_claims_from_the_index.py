"""Claims of assets find in the index alone which rows are due and how often they were tried.

After an outage many assets wait for their next attempt, and each claim passed by all their rows.
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the two columns to the index of deadlines, which has only pending assets."""
    pending = sa.text("due_at IS NOT NULL")
    op.drop_index("ix_assets_deadline", "assets")
    op.create_index(
        "ix_assets_deadline",
        "assets",
        ["expires_at", "attempts", "due_at"],
        sqlite_where=pending,
        postgresql_where=pending,
    )
