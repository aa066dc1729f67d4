"""Other providers: where a task is polled, what is proved about a delivery, and a word for APIs."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_OLD = "api IN ('draw', 'api', 'images')"
_NEW = "api IN ('draw', 'api', 'images', 'queue')"


def upgrade() -> None:
    """Add columns that may be NULL, and widen the CHECK of ``jobs.api``."""
    op.add_column("jobs", sa.Column("poll_url", sa.Text()))
    op.add_column("deliveries", sa.Column("proof", sa.Text()))
    if op.get_context().dialect.name == "postgresql":
        op.drop_constraint(op.f("ck_jobs_api"), "jobs")
        op.create_check_constraint(op.f("ck_jobs_api"), "jobs", _NEW)
    else:
        _widen_in_sqlite(op.get_bind())


def _widen_in_sqlite(connection: sa.Connection) -> None:
    """Change the text of the CHECK: no row can violate the wider one.

    SQLite has no statement for it, and documents this as the way for changes that do not touch the
    rows: https://www.sqlite.org/lang_altertable.html#otheralter. Copying the table would stop the
    service for minutes.
    """
    version = connection.exec_driver_sql("PRAGMA schema_version").scalar_one()
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    connection.exec_driver_sql(
        "UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE type = 'table' AND name = 'jobs'",
        (_OLD, _NEW),
    )
    connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = OFF")
