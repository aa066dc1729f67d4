"""Quarantine: the last file of an asset that failed inspection, and whether it was accepted."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_KEPT = sa.text("quarantined_at IS NOT NULL")


def upgrade() -> None:
    """Add what code of the release before never names."""
    for name, kind in (
        ("rejected_sha256", sa.Text()),
        ("rejected_size", sa.BigInteger()),
        ("rejected_type", sa.Text()),
        ("rejected_reason", sa.Text()),
        ("quarantined_at", sa.Double()),
        ("accepted_at", sa.Double()),
    ):
        op.add_column("assets", sa.Column(name, kind, nullable=True))
    op.create_index(
        op.f("ix_assets_quarantined"),
        "assets",
        ["quarantined_at", "rejected_size"],
        sqlite_where=_KEPT,
        postgresql_where=_KEPT,
    )
