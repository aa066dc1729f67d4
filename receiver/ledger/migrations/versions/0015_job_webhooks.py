"""Where the events of one job go beside EVENT_URLS."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column that code of the release before never names."""
    op.add_column("jobs", sa.Column("webhook", sa.Text()))
