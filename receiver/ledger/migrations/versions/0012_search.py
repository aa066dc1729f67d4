"""The index of the jobs' texts, and when an operator dismissed an unreadable delivery."""

import sqlalchemy as sa
from alembic import op

from receiver.ledger.text_index import index_jobs

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_PORTION = 1000


def upgrade() -> None:
    """Add what code of the release before never names, and index the jobs that exist.

    Jobs that such code submits afterwards are found by a search of the newest rows only.
    """
    op.add_column("deliveries", sa.Column("dismissed_at", sa.Double()))
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        # Without copies of the texts, and without positions in them: nothing reads those.
        op.execute(
            "CREATE VIRTUAL TABLE job_words USING fts5"
            "(pieces, content='', detail=none, columnsize=0, tokenize='ascii')"
        )
    else:
        op.execute("CREATE TABLE job_words (ref TEXT PRIMARY KEY, pieces TSVECTOR NOT NULL)")
    _index_all(connection)
    if connection.dialect.name == "postgresql":
        op.execute("CREATE INDEX ix_job_words_pieces ON job_words USING GIN (pieces)")


def _index_all(connection: sa.Connection) -> None:
    jobs = sa.table("jobs", sa.column("ref"))
    last = ""
    while True:
        portion = sa.select(jobs.c.ref).where(jobs.c.ref > last).order_by(jobs.c.ref)
        refs = connection.execute(portion.limit(_PORTION)).scalars().all()
        if not refs:
            return
        index_jobs(connection, refs)
        last = refs[-1]
