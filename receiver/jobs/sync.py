"""A job whose provider answers with the pictures themselves: one call, one delivery.

There is no callback and nothing to poll, so the call decides the job, also when it fails.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from receiver import clock
from receiver.errors import AnswerLostError, UnreadableError
from receiver.ingest.inbox import Inbox
from receiver.jobs.retry import store_with_retry
from receiver.ledger.jobs import Jobs
from receiver.model import Delivery, Provider, Source
from receiver.providers.openai.client import OpenAIClient
from receiver.providers.openai.protocol import ANSWER_LOST

log = structlog.get_logger(__name__)


class DirectCall:
    """Makes the call of one job."""

    def __init__(
        self, client: OpenAIClient, inbox: Inbox, jobs: Jobs, pause: Callable[[float], None]
    ) -> None:
        self._client = client
        self._inbox = inbox
        self._jobs = jobs
        self._pause = pause

    def make(self, arguments: dict[str, Any], ref: str, before_send: Callable[[], None]) -> None:
        """Make the call and store the answer; raise RefusedError or NotSentError.

        Without a usable answer the job expires.
        """
        try:
            body = self._client.generate(arguments, before_send)
            # This process has the only copy of what was paid for.
            delivery = Delivery(ref, Source.SYNC, body, clock.now(), Provider.OPENAI)
            store_with_retry(partial(self._inbox.accept, delivery), self._pause, ref=ref)
        except (AnswerLostError, UnreadableError) as error:
            log.error("direct call lost its answer", ref=ref, error=str(error))  # noqa: TRY400 - the text says it
            self._jobs.expire(ref, f"{error}. {ANSWER_LOST}")
