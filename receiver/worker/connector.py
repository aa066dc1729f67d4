"""Procrastinate's way to PostgreSQL: outages are sat out, and one connection listens for all lanes of a process."""

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

# Seconds until what PostgreSQL could not do for now is asked again.
PAUSE = 1.0


class RetryingConnector(PsycopgConnector):
    """Asks again until it is told not to. Otherwise a restart of PostgreSQL would end every worker of Procrastinate's."""

    def __init__(self, **pool: Any) -> None:
        super().__init__(**pool)
        self._listeners: dict[str, Notify] = {}
        self._patient = True

    def stop_retrying(self) -> None:
        """Fail from now on where PostgreSQL is away: we want to leave."""
        self._patient = False

    async def execute_query_async(self, query: LiteralString, **arguments: Any) -> None:
        """Run a statement."""
        await self._patiently(
            lambda: super(RetryingConnector, self).execute_query_async(query, **arguments)
        )

    async def execute_query_one_async(
        self, query: LiteralString, **arguments: Any
    ) -> dict[str, Any]:
        """Run a statement and return its row."""
        return await self._patiently(
            lambda: super(RetryingConnector, self).execute_query_one_async(query, **arguments)
        )

    async def execute_query_all_async(
        self, query: LiteralString, **arguments: Any
    ) -> list[dict[str, Any]]:
        """Run a statement and return its rows."""
        return await self._patiently(
            lambda: super(RetryingConnector, self).execute_query_all_async(query, **arguments)
        )

    async def listen_notify(self, on_notification: Notify, channels: Iterable[str]) -> None:
        """Pass on what is heard on these channels, for as long as ``listen`` runs."""
        self._listeners.update(dict.fromkeys(channels, on_notification))
        await asyncio.Event().wait()

    async def listen(self, channels: Iterable[str]) -> None:
        """Listen until cancelled. What is missed during an outage is found by those who wait: they look every few seconds anyway."""
        while True:
            try:
                await super().listen_notify(self._pass_on, channels)
            except ConnectorException as error:
                log.warning("nobody can wake us for now", error=str(error.__cause__))
            await asyncio.sleep(PAUSE)

    async def _pass_on(self, *, channel: str, payload: str) -> None:
        if listener := self._listeners.get(channel):
            await listener(channel=channel, payload=payload)

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await ask()
            except ConnectorException as error:
                if not (self._patient and isinstance(error.__cause__, OperationalError)):
                    raise
                log.warning("ledger away, wakes wait", error=str(error.__cause__))
            await asyncio.sleep(PAUSE)
