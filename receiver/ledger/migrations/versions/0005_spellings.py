"""Reports in other spellings: what was repaired, how many pictures were asked for and left out."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what code of the release before never names."""
    for table, column in (
        ("deliveries", sa.Column("repaired", sa.Text(), server_default="", nullable=False)),
        ("jobs", sa.Column("requested", sa.Integer(), nullable=True)),
        ("jobs", sa.Column("left_out", sa.Integer(), server_default="0", nullable=False)),
        ("assets", sa.Column("decoded", sa.Text(), server_default="", nullable=False)),
    ):
        op.add_column(table, column)
