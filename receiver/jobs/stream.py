"""A job whose provider answers with a stream: each event is accepted by the inbox at once.

A thread of its own reads the stream, so the caller need not wait for its end. If the stream breaks
off or the process ends, the job is polled.
"""

import threading
from collections.abc import Callable, Iterator
from functools import partial

import structlog

from receiver import clock
from receiver.errors import AnswerLostError, ReceiverError, RefusedError, UnreadableError
from receiver.ingest.inbox import Inbox
from receiver.jobs.retry import store_with_retry
from receiver.model import Decision, Delivery, Source
from receiver.providers.dialect import Request
from receiver.providers.grsai.answers import find_id
from receiver.providers.grsai.client import GrsaiClient

log = structlog.get_logger(__name__)

# Seconds the caller waits for the first event. The stream may last as long as events come.
FIRST_EVENT_TIMEOUT = 180.0


class StreamReader:
    """Posts one job and reads its stream to the end.

    ``refuse`` is called with the provider's words if an error comes after the first event. ``take``
    is called with the task's id if the first event has the id but is not a report.
    """

    def __init__(
        self,
        client: GrsaiClient,
        inbox: Inbox,
        request: Request,
        ref: str,
        before_send: Callable[[], None],
        *,
        pause: Callable[[float], None],
        refuse: Callable[[str], object],
        take: Callable[[str], object],
    ) -> None:
        self._client = client
        self._inbox = inbox
        self._request = request
        self._ref = ref
        self._before_send = before_send
        self._pause = pause
        self._refuse = refuse
        self._take = take
        self._started = threading.Event()
        self._error: Exception | None = None

    def wait_for_first_event(self) -> None:
        """Post the job and return when the first event is stored; a thread continues to read.

        Raise what the submit raised, or AnswerLostError if the stream ended without an event.
        """
        threading.Thread(target=self._read, name=f"stream-{self._ref}", daemon=True).start()
        if not self._started.wait(FIRST_EVENT_TIMEOUT):
            raise AnswerLostError(f"the stream had no event within {FIRST_EVENT_TIMEOUT:.0f} s")
        if self._error is not None:
            raise self._error

    def _read(self) -> None:
        try:
            with self._client.stream(self._request, self._before_send) as events:
                ended = self._accept_all(events)
        except Exception as error:  # noqa: BLE001 - raised in the waiting thread, or logged
            self._end(error)
        else:
            if not ended:
                self._end(AnswerLostError("the stream ended before the job did"))

    def _accept_all(self, events: Iterator[bytes]) -> bool:
        """Accept events as they come; return True when one has ended the job."""
        for body in events:
            accept = partial(
                self._inbox.accept, Delivery(self._ref, Source.STREAM, body, clock.now())
            )
            try:
                decision = store_with_retry(accept, self._pause, ref=self._ref)
            except UnreadableError as error:
                log.warning(
                    "stream event unreadable, stored",
                    ref=self._ref,
                    error=str(error),
                )
                self._keep_id(body)
                continue
            self._started.set()
            if decision is Decision.ENDED:
                return True
        return False

    def _keep_id(self, body: bytes) -> None:
        """Record the id in an event that is not a report, for example because it was cut short."""
        if not self._started.is_set() and (found := find_id(body)):
            store_with_retry(partial(self._take, found), self._pause, ref=self._ref)
            self._started.set()

    def _end(self, error: Exception) -> None:
        """Pass an error to the waiting caller; after the first event log it, the job is polled."""
        if not self._started.is_set():
            self._error = error
            self._started.set()
        elif isinstance(error, RefusedError):
            store_with_retry(partial(self._refuse, str(error)), self._pause, ref=self._ref)
        elif isinstance(error, ReceiverError):
            log.info(
                "stream ended, job will be polled",
                ref=self._ref,
                reason=str(error),
            )
        else:
            log.error("stream failed", ref=self._ref, exc_info=error)
