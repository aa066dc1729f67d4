"""Procrastinate's connections: they retry in an outage, and one listens for all work queues."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, LiteralString, TypeVar

import structlog
from procrastinate.connector import Notify
from procrastinate.exceptions import ConnectorException
from procrastinate.psycopg_connector import PsycopgConnector
from psycopg import OperationalError

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Seconds between two attempts while PostgreSQL is unavailable.
PAUSE = 1.0


class RetryingConnector(PsycopgConnector):
    """Retries statements: otherwise a restart of PostgreSQL would end Procrastinate's workers."""

    def __init__(self, **pool: Any) -> None:
        super().__init__(**pool)
        self._listeners: dict[str, Notify] = {}
        self._retrying = True

    def stop_retrying(self) -> None:
        """Fail from now on if PostgreSQL is unavailable, so that this process can stop."""
        self._retrying = False

    async def execute_query_async(self, query: LiteralString, **arguments: Any) -> None:
        """Run a statement."""
        await self._with_retries(
            lambda: super(RetryingConnector, self).execute_query_async(query, **arguments)
        )

    async def execute_query_one_async(
        self, query: LiteralString, **arguments: Any
    ) -> dict[str, Any]:
        """Run a statement and return its row."""
        return await self._with_retries(
            lambda: super(RetryingConnector, self).execute_query_one_async(query, **arguments)
        )

    async def execute_query_all_async(
        self, query: LiteralString, **arguments: Any
    ) -> list[dict[str, Any]]:
        """Run a statement and return its rows."""
        return await self._with_retries(
            lambda: super(RetryingConnector, self).execute_query_all_async(query, **arguments)
        )

    async def listen_notify(self, on_notification: Notify, channels: Iterable[str]) -> None:
        """Register a listener for these channels; ``listen`` calls it."""
        self._listeners.update(dict.fromkeys(channels, on_notification))
        await asyncio.Event().wait()

    async def listen(self, channels: Iterable[str]) -> None:
        """Listen until cancelled. Rows announced during an outage are found by polling."""
        while True:
            try:
                await super().listen_notify(self._dispatch, channels)
            except ConnectorException as error:
                log.warning("no notifications, ledger unavailable", error=str(error.__cause__))
            await asyncio.sleep(PAUSE)

    async def _dispatch(self, *, channel: str, payload: str) -> None:
        if listener := self._listeners.get(channel):
            await listener(channel=channel, payload=payload)

    async def _with_retries(self, ask: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await ask()
            except ConnectorException as error:
                if not (self._retrying and isinstance(error.__cause__, OperationalError)):
                    raise
                log.warning("ledger unavailable, notifications wait", error=str(error.__cause__))
            await asyncio.sleep(PAUSE)
