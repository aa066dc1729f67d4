"""A job whose provider answers by a stream: every event passes the inbox as it comes.

The stream is read by a thread of its own, so that whoever submitted may look on, or leave. If it breaks off, falls silent or is left, the
job goes on by polling.
"""

import threading
from collections.abc import Callable, Iterator
from functools import partial

import structlog

from receiver import clock
from receiver.errors import AnswerLostError, ReceiverError, UnreadableError
from receiver.ingest.inbox import Inbox
from receiver.jobs.retry import store_with_retry
from receiver.model import Decision, Delivery, Source
from receiver.providers.grsai import protocol as grsai
from receiver.providers.grsai.client import GrsaiClient

log = structlog.get_logger(__name__)

# Seconds a submitter waits for the first event; the stream itself may last as long as it speaks.
FIRST_WORD_WITHIN = 180.0


class StreamReader:
    """Posts one job and reads its stream to the end."""

    def __init__(
        self,
        client: GrsaiClient,
        inbox: Inbox,
        base_url: str,
        request: grsai.Request,
        ref: str,
        before_send: Callable[[], None],
        *,
        pause: Callable[[float], None],
    ) -> None:
        self._client = client
        self._inbox = inbox
        self._base_url = base_url
        self._request = request
        self._ref = ref
        self._before_send = before_send
        self._pause = pause
        self._heard = threading.Event()
        self._error: Exception | None = None

    def first_word(self) -> None:
        """Post the job and return once the first event is stored, while a thread goes on reading.

        Raise what the submit raised, AnswerLostError if the stream ended without an event.
        """
        threading.Thread(target=self._read, name=f"stream-{self._ref}", daemon=True).start()
        if not self._heard.wait(FIRST_WORD_WITHIN):
            raise AnswerLostError(f"the stream had no event within {FIRST_WORD_WITHIN:.0f} s")
        if self._error is not None:
            raise self._error

    def _read(self) -> None:
        try:
            with self._client.stream(self._base_url, self._request, self._before_send) as events:
                ended = self._take_in(events)
        except Exception as error:  # noqa: BLE001 - handed to the thread that waits for the first word, or told below
            self._end(error)
        else:
            if not ended:
                self._end(AnswerLostError("the stream ended without an end of the job"))

    def _take_in(self, events: Iterator[bytes]) -> bool:
        """Accept events as they come; return whether one of them ended the job."""
        for body in events:
            accept = partial(
                self._inbox.accept, Delivery(self._ref, Source.STREAM, body, clock.now())
            )
            try:
                verdict = store_with_retry(accept, self._pause, ref=self._ref)
            except UnreadableError as error:
                log.warning(
                    "event of a stream unreadable, kept as evidence",
                    ref=self._ref,
                    error=str(error),
                )
                continue
            self._heard.set()
            if verdict is Decision.ENDED:
                return True
        return False

    def _end(self, error: Exception) -> None:
        """Hand an early end to whoever waits for the first word; a later one is no loss, the job is polled."""
        if not self._heard.is_set():
            self._error = error
            self._heard.set()
        elif isinstance(error, ReceiverError):
            log.info(
                "stream over, the job goes on by polling if it must",
                ref=self._ref,
                reason=str(error),
            )
        else:
            log.error("stream broke off", ref=self._ref, exc_info=error)
