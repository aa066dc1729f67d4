"""What the inspection found in an archived file, and whether it can be decoded."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what code of the release before never names; its pictures are not tried."""
    for column in (
        sa.Column("defect", sa.Text(), server_default="", nullable=False),
        sa.Column("marks", sa.Text(), server_default="", nullable=False),
        sa.Column("doubt", sa.Text(), server_default="", nullable=True),
    ):
        op.add_column("assets", column)
    op.create_index(
        "ix_assets_untried",
        "assets",
        ["finished_at"],
        sqlite_where=sa.text("doubt IS NULL"),
        postgresql_where=sa.text("doubt IS NULL"),
    )
