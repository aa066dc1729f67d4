"""Event deliveries whose last attempt failed, and an operator's request to send them now."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add indexes of few rows, and a column that is NULL until an operator asks."""
    op.add_column("destinations", sa.Column("expedited_at", sa.Double()))
    for name, condition in (
        ("ix_sendings_failing", "state = 'pending' AND error <> ''"),
        ("ix_sendings_given_up", "state = 'set_aside'"),
    ):
        op.create_index(
            name,
            "sendings",
            ["destination", "event"],
            sqlite_where=sa.text(condition),
            postgresql_where=sa.text(condition),
        )
