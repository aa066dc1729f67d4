"""``Submitter`` for programs with an event loop: each call runs in a thread."""

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from receiver.model import Provider
from submitter.job import Job
from submitter.submit import Submitter


class AsyncSubmitter:
    """The methods of ``Submitter`` as coroutines; an asynchronous context manager.

    The arguments are those of ``Submitter``, which is opened by ``async with``. A call that is
    cancelled goes on in its thread: its job may still be posted.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._submitter: Submitter | None = None

    async def __aenter__(self) -> Self:
        """Open it and return it."""
        self._submitter = await asyncio.to_thread(Submitter, **self._options)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await asyncio.to_thread(self._opened.close)

    @property
    def _opened(self) -> Submitter:
        if self._submitter is None:
            raise RuntimeError("open it first: async with AsyncSubmitter() as submitter")
        return self._submitter

    async def submit(self, prompt: str, **options: Any) -> Job:
        """Post one job; see ``Submitter.submit``."""
        return await asyncio.to_thread(self._opened.submit, prompt, **options)

    async def job(self, ref: str) -> Job:
        """Return the current state of one job; raise KeyError if there is none."""
        return await asyncio.to_thread(self._opened.job, ref)

    async def wait(
        self,
        refs: Sequence[str],
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the same argument as in Submitter
        watch: Callable[[Job], None] | None = None,
    ) -> list[Job]:
        """Wait until every job is final; ``watch`` is called in another thread."""
        return await asyncio.to_thread(self._opened.wait, refs, timeout=timeout, watch=watch)

    async def credits(self, provider: Provider = Provider.GRSAI) -> float | None:
        """Return the credits left at a provider; see ``Submitter.credits``."""
        return await asyncio.to_thread(self._opened.credits, provider)
