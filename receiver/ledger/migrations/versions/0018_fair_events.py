"""Event deliveries by the number of their attempts: those that were not tried yet come first."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add indexes of the pending deliveries; finished ones are in none of them."""
    for name, condition in (
        ("ix_sendings_untried", "due_at IS NOT NULL AND attempts = 0"),
        ("ix_sendings_few", "due_at IS NOT NULL AND attempts > 0 AND attempts < 3"),
        ("ix_sendings_several", "due_at IS NOT NULL AND attempts >= 3"),
    ):
        op.create_index(
            name,
            "sendings",
            ["destination", "due_at"],
            sqlite_where=sa.text(condition),
            postgresql_where=sa.text(condition),
        )
