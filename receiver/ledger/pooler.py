"""Poolers before PostgreSQL, such as PgBouncer: they must keep a session for each connection.

In transaction mode every transaction may run in another session. Then notifications (LISTEN) do not
arrive, and the locks that show which workers are alive are lost.
"""

from typing import Any

from sqlalchemy import Connection, Engine

SESSIONS_NEEDED = (
    "DATABASE_URL: the pooler there does not keep sessions (PgBouncer: pool_mode=transaction), and "
    "the service needs them for LISTEN and for locks of workers; set pool_mode=session there, or "
    "use the address of PostgreSQL itself"
)
# Other clients of the pooler may hide its mode from a single query.
_QUESTIONS = 5


def keeps_sessions(engine: Engine) -> bool:
    """Return whether each connection of ours has a session of PostgreSQL for itself.

    This costs one query where there is no pooler, and a second connection where there is one.
    """
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    with autocommit.connect() as one:
        if _driver(one).info.backend_pid == _session(one):
            return True  # a pooler announces a number of its own
        with autocommit.connect() as other:
            seen = {(_session(one), _session(other)) for _ in range(_QUESTIONS)}
    # With a session each, the two get two different answers, again and again.
    return len(seen) == 1 and len(set(*seen)) == 2  # noqa: PLR2004 - two connections


def _session(connection: Connection) -> int:
    """Return the number of the server's process that answers now."""
    # Not prepared: the next query may go to a session that does not know the statement.
    answer = _driver(connection).execute("SELECT pg_backend_pid()", prepare=False)
    return int(answer.fetchone()[0])


def _driver(connection: Connection) -> Any:
    """Return the psycopg connection."""
    return connection.connection.dbapi_connection
