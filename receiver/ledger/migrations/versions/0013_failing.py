"""Event deliveries whose last attempt failed, and an operator's request to send them now."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add an index of few rows, and a column that may be NULL: nobody asked yet."""
    op.add_column("destinations", sa.Column("expedited_at", sa.Double()))
    failing = sa.text("state = 'pending' AND error <> ''")
    op.create_index(
        "ix_sendings_failing",
        "sendings",
        ["destination", "event"],
        sqlite_where=failing,
        postgresql_where=failing,
    )
