"""The outbox at work: each destination is told what happened, at least once, a job's events in their order, until it takes them.

Nothing is retried here. What was not taken is due again later, for three days; then it is set aside, to be seen and sent again by a person.
"""

import threading
from collections.abc import Sequence

import structlog

from receiver.clock import back_off, doubling
from receiver.errors import ClaimLostError, EventNotDeliveredError, LedgerError, ReceiverError
from receiver.events.destinations import Destination
from receiver.events.event import Event, EventSerializer
from receiver.events.transports import Transport
from receiver.ledger.claims import Claimed
from receiver.ledger.outbox import Outbox
from receiver.ledger.rows import EventDelivery
from receiver.telemetry.metrics import EVENT_SECONDS, EVENTS

log = structlog.get_logger(__name__)

# Seconds after each failed attempt to deliver one event, with jitter.
RETRY_DELAYS: Sequence[float] = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0)
# Seconds for which an event is tried.
RETRY_FOR = 72 * 3600.0
# Seconds for which a destination that cannot be reached is left alone, after each failure.
PAUSES = doubling(1.0, 60.0)
# Seconds between removals of what was told long ago.
PRUNE_EVERY = 3600.0


class Dispatcher:
    """Tells one destination; safe to share between the hands of its lane."""

    def __init__(
        self,
        outbox: Outbox,
        destination: Destination,
        transport: Transport,
        serializer: EventSerializer,
    ) -> None:
        self.destination = destination
        self._outbox = outbox
        self._transport = transport
        self._serializer = serializer
        self._lock = threading.Lock()
        self._failures = 0
        self._paused_until = 0.0
        self._pruned_at = 0.0

    def next_due(self) -> float | None:
        """Return when there is something to tell (seconds since the epoch); a destination that cannot be reached is left alone a while."""
        due = self._outbox.next_due(self.destination.name)
        return None if due is None else max(due, self._paused_until)

    def claim(self, limit: int) -> list[Claimed[EventDelivery]]:
        """Claim what is due; now and then what was told long ago is removed."""
        if self._outbox.now() - self._pruned_at > PRUNE_EVERY:
            self._outbox.prune()
            self._pruned_at = self._outbox.now()
        if self._outbox.now() < self._paused_until:
            return []  # asked by an engine that was woken, and does not look when something is due
        return self._outbox.claim(self.destination.name, self.destination.types, limit)

    def send(self, claimed: Claimed[EventDelivery]) -> None:
        """Tell one event, or say in the ledger when it is to be tried again."""
        row = claimed.row
        logger = log.bind(
            destination=row.destination, ref=row.ref, event_number=row.event, attempt=row.attempts
        )
        try:
            self._deliver(row)
            self._outbox.mark_sent(claimed)
            self._count("sent", failures=0)
            logger.info("event told")
        except ClaimLostError:
            logger.warning("event left to another worker")
        except LedgerError:
            # Whether it was told is not written down: the lease ends, and it is told again.
            raise
        except ReceiverError as error:
            logger.warning("event not told", error=str(error))
            self._record_failure(claimed, error)
        except Exception as error:
            # A mistake of ours is an attempt that failed, and those end in time.
            logger.exception("attempt broke off")
            self._record_failure(
                claimed,
                ReceiverError(
                    f"the attempt broke off ({type(error).__name__}); the log says where"
                ),
            )

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
            log.warning(
                "event left to another worker", destination=row.destination, event_number=row.event
            )

    def _count(self, outcome: str, failures: int | None = None) -> None:
        EVENTS.labels(self.destination.name, outcome).inc()
        if failures is not None:
            with self._lock:
                self._failures = failures
                pause = back_off(failures, PAUSES, jitter=0) if failures else 0.0
                self._paused_until = self._outbox.now() + pause
