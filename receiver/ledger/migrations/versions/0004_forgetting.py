"""Forgetting events: deleting one looks up its sendings, for which there was no index."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add an index."""
    op.create_index(op.f("ix_sendings_event"), "sendings", ["event"])
