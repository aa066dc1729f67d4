"""Totals of jobs that are kept, and triggers that record changes of jobs that are summed up."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# What the totals are about. Other columns change without a trigger.
_COLUMNS = "ref, provider, model, state, reason, requested"


def upgrade() -> None:
    """Add empty tables; a worker fills them. The triggers record also what older code changes."""
    is_sqlite = op.get_context().dialect.name == "sqlite"
    number = sa.Integer if is_sqlite else sa.BigInteger
    op.create_table(
        "job_totals",
        sa.Column("start", sa.BigInteger(), primary_key=True, autoincrement=False),
        *(
            sa.Column(name, sa.Text(), primary_key=True)
            for name in ("provider", "model", "state", "reason")
        ),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
        sa.Column("pictures", sa.BigInteger(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table("summed_jobs", sa.Column("below", sa.Text(), primary_key=True))
    op.create_table(
        "changed_jobs",
        sa.Column("id", number(), primary_key=True, autoincrement=True),
        sa.Column("ref", sa.Text(), nullable=False),
    )
    if is_sqlite:
        _add_sqlite_triggers()
    else:
        _add_postgres_trigger()


def _add_sqlite_triggers() -> None:
    for name, moment, row in (
        ("insert", "INSERT", "NEW"),
        ("update", f"UPDATE OF {_COLUMNS}", "NEW"),
        ("delete", "DELETE", "OLD"),
    ):
        op.execute(
            f"CREATE TRIGGER jobs_summed_{name} AFTER {moment} ON jobs"  # noqa: S608 - constants
            f" WHEN {row}.ref < (SELECT below FROM summed_jobs)"
            f" BEGIN INSERT INTO changed_jobs (ref) VALUES ({row}.ref); END"
        )


def _add_postgres_trigger() -> None:
    op.execute(
        """
        CREATE FUNCTION record_changed_job() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO changed_jobs (ref)
            SELECT coalesce(NEW.ref, OLD.ref) FROM summed_jobs
            WHERE coalesce(NEW.ref, OLD.ref) < below;
            RETURN NULL;
        END $$
        """
    )
    op.execute(
        f"CREATE TRIGGER jobs_summed AFTER INSERT OR DELETE OR UPDATE OF {_COLUMNS} ON jobs"
        " FOR EACH ROW EXECUTE FUNCTION record_changed_job()"
    )
