"""A connection to PostgreSQL that notices a lost answer although no connection was closed.

If a network drops bytes, or a proxy forgets a connection, a thread could wait for ever. TCP
keepalives do not help, because the proxy answers them. A time limit for every statement would end
those that take long for good reasons. So after some seconds without data, another connection asks
the server whether it still works on our statement.
"""

import time
from collections.abc import Generator
from typing import Any, Self, TypeVar

import psycopg
import structlog

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Seconds without data until the server is asked, and then between two checks.
_SILENCE = 2.0
_WAIT_INTERVAL = 0.1


class WatchedConnection(psycopg.Connection[Any]):
    """Raises OperationalError, and is closed, if the server does not work on our statement."""

    _server_pid = 0
    _arguments: dict[str, Any]

    @classmethod
    def open(cls, arguments: dict[str, Any], *, autocommit: bool = False) -> Self:
        """Connect. A pooler shows another number of our session, so ask the server for it."""
        connection = cls.connect(**{**arguments, "autocommit": True})
        row = connection.execute("SELECT pg_backend_pid()").fetchone()
        connection.autocommit = autocommit
        connection._server_pid, connection._arguments = (row or (0,))[0], arguments  # noqa: SLF001 - our own
        return connection

    def wait(
        self,
        gen: Generator[Any, Any, T],
        interval: float = _WAIT_INTERVAL,
        *more: Any,
        **named: Any,
    ) -> T:
        """Wait as psycopg does, for every kind of answer."""
        return super().wait(self._watched(gen), interval, *more, **named)

    def _watched(self, answer: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        since = time.monotonic()
        try:
            wanted = next(answer)
            while True:
                ready = yield wanted
                if ready:
                    since = time.monotonic()
                elif time.monotonic() - since > _SILENCE:
                    self._require_working()
                    since = time.monotonic()
                wanted = answer.send(ready)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # what the generator returns

    def _require_working(self) -> None:
        """Raise OperationalError if the server does not work on our statement.

        If the server cannot be asked, nothing is known, and the wait goes on.
        """
        query = "SELECT state FROM pg_stat_activity WHERE pid = %s"
        try:
            with _BriefConnection.connect(**self._arguments) as other:
                row = other.execute(query, [self._server_pid]).fetchone()
                is_lost = self._server_pid and (row is None or row[0] not in {"active", None})
                if is_lost and row is not None:
                    # Its transaction holds locks until the server ends it, which takes 10 s.
                    other.execute("SELECT pg_terminate_backend(%s)", [self._server_pid])
        except psycopg.Error:
            return
        if is_lost:
            log.warning("answer of the ledger lost", state=row and row[0])
            self.close()
            raise psycopg.OperationalError("PostgreSQL's answer was lost")


class _BriefConnection(psycopg.Connection[Any]):
    """Raises an error after some seconds without an answer."""

    def wait(
        self, gen: Generator[Any, Any, T], interval: float = _WAIT_INTERVAL, *_: Any, **__: Any
    ) -> T:
        return super().wait(gen, interval, timeout=_SILENCE)
