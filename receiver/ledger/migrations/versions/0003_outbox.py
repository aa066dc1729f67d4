"""The outbox: the destinations of events, and the state of each delivery."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_DUE = sa.text("due_at IS NOT NULL")
_PENDING = sa.text("state = 'pending'")
_SENT = sa.text("state = 'sent'")
_SET_ASIDE = sa.text("state = 'set_aside'")


def upgrade() -> None:
    """Add what code of the release before never names."""
    op.add_column("events", sa.Column("rebuilt", sa.Integer(), server_default="0", nullable=False))
    op.create_table(
        "destinations",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("cursor", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "sendings",
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("event", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=True),
        sa.Column("claim", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("error", sa.Text(), server_default="", nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.CheckConstraint(
            "state IN ('pending', 'sent', 'set_aside')", name=op.f("ck_sendings_state")
        ),
        sa.CheckConstraint(
            "(state = 'pending') = (finished_at IS NULL)",
            name=op.f("ck_sendings_pending_iff_unfinished"),
        ),
        sa.CheckConstraint(
            "due_at IS NULL OR state = 'pending'", name=op.f("ck_sendings_due_is_pending")
        ),
        sa.CheckConstraint(
            "claim IS NULL OR due_at IS NOT NULL", name=op.f("ck_sendings_claim_is_due")
        ),
        sa.ForeignKeyConstraint(["destination"], ["destinations.name"]),
        sa.ForeignKeyConstraint(["event"], ["events.id"]),
        sa.PrimaryKeyConstraint("destination", "event"),
    )
    due, turn = ["destination", "due_at"], ["destination", "ref", "event"]
    op.create_index(
        op.f("ix_sendings_due"), "sendings", due, sqlite_where=_DUE, postgresql_where=_DUE
    )
    op.create_index(
        op.f("ix_sendings_turn"), "sendings", turn, sqlite_where=_PENDING, postgresql_where=_PENDING
    )
    op.create_index(
        op.f("ix_sendings_sent"),
        "sendings",
        ["finished_at"],
        sqlite_where=_SENT,
        postgresql_where=_SENT,
    )
    op.create_index(
        op.f("ix_sendings_set_aside"),
        "sendings",
        ["event"],
        sqlite_where=_SET_ASIDE,
        postgresql_where=_SET_ASIDE,
    )
