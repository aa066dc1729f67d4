"""Deliver the events of the outbox to one destination, at least once, each job's events in order.

Nothing is retried here. After a failed delivery the event gets a new due time, for three days. Then
it is set aside; a person can see it and have it sent again.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from receiver.clock import back_off, doubling
from receiver.errors import (
    ClaimLostError,
    EventNotDeliveredError,
    EventPostponedError,
    LedgerError,
    ReceiverError,
)
from receiver.events.destinations import Destination
from receiver.events.event import Event, EventSerializer
from receiver.events.transports import Transport
from receiver.ledger.claims import Claimed
from receiver.ledger.event_queue import is_retry
from receiver.ledger.outbox import Outbox
from receiver.ledger.rows import EventDelivery
from receiver.telemetry.metrics import EVENT_SECONDS, EVENTS

log = structlog.get_logger(__name__)

# Threads for one destination. A quarter of them takes only what was not tried yet.
THREADS = 4
# Seconds after each failed attempt to deliver one event, with jitter.
RETRY_DELAYS: Sequence[float] = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0)
# Seconds after which an undelivered event is set aside.
RETRY_FOR = 72 * 3600.0
# Seconds without any delivery to an unreachable destination, after each failure.
PAUSES = doubling(1.0, 60.0)
# Seconds between removals of old delivered events.
PRUNE_EVERY = 3600.0

# Postpones a delivery, and others to the same host if they became due after a moment.
Postpone = Callable[[Claimed[EventDelivery], EventPostponedError, float], None]


@dataclass(frozen=True, slots=True)
class DestinationAnswer:
    """What a destination answered to a test event.

    ``text`` is an error of ours or its own words; ``seconds`` is how long it took.
    """

    accepted: bool
    text: str
    seconds: float


def _key(claimed: Claimed[EventDelivery]) -> tuple[str, int]:
    return claimed.token, claimed.row.event


class Dispatcher:
    """Delivers events to one destination. The threads of its work queue share it."""

    def __init__(
        self,
        outbox: Outbox,
        destination: Destination,
        transport: Transport,
        serializer: EventSerializer,
        postpone: Postpone | None = None,
        threads: int = THREADS,
    ) -> None:
        self.destination = destination
        self.threads = threads
        self._outbox = outbox
        self._transport = transport
        self._serializer = serializer
        self._postpone = postpone
        self._lock = threading.Lock()
        self._failures = 0
        self._paused_from = self._paused_until = 0.0
        self._pruned_at = 0.0
        self._turn = 0
        self._retries: set[tuple[str, int]] = set()  # claims of deliveries that were tried before

    def next_due(self) -> float | None:
        """Return when the next event is due (seconds since the epoch), or None.

        If the destination cannot be reached, this is not before the end of the pause.
        """
        due = self._outbox.next_due(self.destination.name)
        return None if due is None else max(due, self._paused_until if self._is_paused() else 0.0)

    def claim(self, limit: int) -> list[Claimed[EventDelivery]]:
        """Claim the events that are due. From time to time, remove old delivered events."""
        if self._outbox.now() - self._pruned_at > PRUNE_EVERY:
            self._outbox.prune()
            self._pruned_at = self._outbox.now()
        if self._is_paused():
            return []  # a notified engine claims without asking next_due()
        most = self.threads - self.threads // 4 - len(self._retries)
        to, turn = self.destination, self._turn
        found = self._outbox.claim(to.name, to.types, limit, retries=max(0, most), turn=turn)
        self._turn += bool(found)
        with self._lock:
            self._retries.update(_key(one) for one in found if is_retry(one))
        return found

    def _is_paused(self) -> bool:
        """Return whether nothing is sent now; an operator's request ends the pause."""
        if self._outbox.now() >= self._paused_until:
            return False
        return self._outbox.expedited_at(self.destination.name) <= self._paused_from

    def send(self, claimed: Claimed[EventDelivery]) -> None:
        """Deliver one event, or record in the ledger when to try again."""
        try:
            self._send(claimed)
        finally:
            with self._lock:
                self._retries.discard(_key(claimed))

    def _send(self, claimed: Claimed[EventDelivery]) -> None:
        row = claimed.row
        logger = log.bind(
            destination=row.destination, ref=row.ref, event_number=row.event, attempt=row.attempts
        )
        try:
            self._deliver(row)
            self._outbox.mark_sent(claimed)
            self._count("sent", failures=0)
            logger.info("event delivered")
        except ClaimLostError:
            logger.warning("event claim lost")
        except EventPostponedError as error:
            self._wait_for_host(claimed, error)
        except LedgerError:
            # The delivery is not recorded: the lease ends, and the event is sent again.
            raise
        except ReceiverError as error:
            logger.warning("event delivery failed", error=str(error))
            self._record_failure(claimed, error)
        except Exception as error:
            # A bug of ours counts as a failed attempt, so that it cannot block the queue for ever.
            logger.exception("event delivery crashed")
            self._record_failure(
                claimed,
                ReceiverError(
                    f"unexpected error in the attempt ({type(error).__name__}); see the log"
                ),
            )

    def _wait_for_host(self, claimed: Claimed[EventDelivery], error: EventPostponedError) -> None:
        """Postpone a delivery, or set it aside if its host cannot be reached and time is up."""
        assert self._postpone is not None  # noqa: S101 - given with the transport that raises this
        oldest = self._outbox.now() - RETRY_FOR if error.away else 0.0
        if claimed.row.since <= oldest:
            self._record_failure(claimed, error)
            return
        try:
            self._postpone(claimed, error, oldest)
        except ClaimLostError:
            log.warning("event claim lost", event_number=claimed.row.event)

    def send_test(self, transport: Transport | None = None) -> DestinationAnswer:
        """Send a test event once, whatever events wait; nothing is recorded in the ledger.

        ``transport`` replaces the destination's own.
        """
        event, began = Event.for_test(self._outbox.now()), time.monotonic()
        try:
            text = (transport or self._transport).send(event, self._serializer.body(event))
        except EventNotDeliveredError as error:
            words = f"{error}: {error.answer}" if error.answer else str(error)
            return DestinationAnswer(accepted=False, text=words, seconds=time.monotonic() - began)
        return DestinationAnswer(accepted=True, text=text, seconds=time.monotonic() - began)

    def _deliver(self, row: EventDelivery) -> None:
        found = self._outbox.find(row.event)
        if found is None:
            raise ReceiverError("the event is gone from the ledger")
        event = Event.of(found)
        with EVENT_SECONDS.time():
            self._transport.send(event, self._serializer.body(event))

    def _record_failure(self, claimed: Claimed[EventDelivery], error: ReceiverError) -> None:
        now, row = self._outbox.now(), claimed.row
        away, wait = (
            (error.away, error.wait) if isinstance(error, EventNotDeliveredError) else (False, 0.0)
        )
        try:
            if now >= row.since + RETRY_FOR:
                self._outbox.set_aside(claimed, str(error))
                log.error(
                    "event set aside",
                    destination=row.destination,
                    ref=row.ref,
                    event_number=row.event,
                    error=str(error),
                )
                self._count("set_aside")
            else:
                self._outbox.retry(
                    claimed,
                    min(
                        now + max(back_off(row.attempts, RETRY_DELAYS), wait), row.since + RETRY_FOR
                    ),
                    str(error),
                )
                self._count("failed", failures=self._failures + 1 if away else 0)
        except ClaimLostError:
            log.warning("event claim lost", destination=row.destination, event_number=row.event)

    def _count(self, outcome: str, failures: int | None = None) -> None:
        EVENTS.labels(self.destination.name, outcome).inc()
        if failures is not None:
            with self._lock:
                self._failures = failures
                pause = back_off(failures, PAUSES, jitter=0) if failures else 0.0
                self._paused_from = self._outbox.now()
                self._paused_until = self._paused_from + pause
