"""Events, as a list and as a stream of server-sent events, their destinations, and the audit.

A stream occupies one of the process's threads, which callbacks need too. So there are few streams,
and each ends after a while. Browsers and other clients then reconnect by themselves, and send
``Last-Event-ID`` to continue where they were.
"""

import threading
from collections.abc import Callable, Iterator
from functools import partial

from flask import Response, current_app, request
from pydantic import BaseModel
from werkzeug.exceptions import BadRequest

from receiver.errors import LedgerError
from receiver.events.event import Event
from receiver.jobs.schemas import AuditQuery, AuditView, EventList, EventsQuery, EventView
from receiver.ledger.queries.events import DestinationStatus
from receiver.model import timestamp
from receiver.services import Services
from receiver.web import auth
from receiver.web.api.base import blueprint, json_of, read_query
from receiver.web.api.operations import ResponseDoc, documented
from receiver.web.body import is_closed
from receiver.web.problems import problem
from receiver.web.state import is_stopping, services

# Streams of one process at a time, and seconds until a refused client may try again.
MAX_STREAMS, RETRY_AFTER = 4, 15
# Seconds between queries of the ledger, between comments that keep the connection open, and of one
# stream.
QUERY_INTERVAL, HEARTBEAT, MAX_DURATION = 0.5, 15.0, 600.0

_slots = threading.BoundedSemaphore(MAX_STREAMS)
_never = threading.Event()


class DestinationView(BaseModel):
    """A destination of events; counts end at 10,000.

    ``not_queued`` are events without a delivery yet, ``failing`` those of the ``waiting`` ones
    whose last attempt failed. ``oldest_at`` is when the oldest event happened that is neither
    delivered nor set aside. ``attempts`` and ``last_error`` are those of the oldest failing
    delivery, or else of the newest one that was set aside. ``success_rate`` is the share that was
    delivered of the newest 1,000 deliveries, without those that were not tried yet.
    """

    destination: str
    configured: bool
    not_queued: int
    waiting: int
    failing: int
    set_aside: int
    oldest_at: str | None
    attempts: int
    last_error: str
    success_rate: float | None

    @classmethod
    def of(cls, row: DestinationStatus, *, configured: bool) -> "DestinationView":
        """Show one destination."""
        return cls(
            destination=row.destination,
            configured=configured,
            not_queued=row.not_handed,
            waiting=row.waiting,
            failing=row.failing,
            set_aside=row.set_aside,
            oldest_at=timestamp(row.oldest_at),
            attempts=row.attempts,
            last_error=row.last_error,
            success_rate=row.recent.success_rate,
        )


class DestinationList(BaseModel):
    """Every destination, also those that get no events now (``configured`` is false).

    ``job webhooks`` stands for the webhooks of all jobs.
    """

    destinations: list[DestinationView]


@blueprint.get("/api/events")
@documented(
    "List events, oldest first",
    {200: ResponseDoc("a page of events", EventList)},
    query=EventsQuery,
    problems={400: "invalid query"},
)
def events() -> Response:
    """List the events with a number above ``after``, oldest first."""
    query = read_query(EventsQuery)
    rows = services().events.after(query.after, limit=query.limit)
    objects = services().serializer.objects([Event.read(row) for row in rows])
    found = [EventView.model_validate(event) for event in objects]
    return json_of(EventList(events=found, next=found[-1].number if found else None))


@blueprint.get("/api/destinations")
@documented(
    "List the destinations of events",
    {200: ResponseDoc("what waits, fails and was set aside at each", DestinationList)},
)
def destinations() -> Response:
    """List the destinations of events, with what waits, fails and was set aside at each."""
    served = services().settings.served
    rows = services().events.destinations()
    return json_of(
        DestinationList(
            destinations=[
                DestinationView.of(row, configured=row.destination in served) for row in rows
            ]
        )
    )


@blueprint.get("/api/audit")
@documented(
    "Check the ledger's invariants",
    {200: ResponseDoc("the counts, and the invariants that do not hold", AuditView)},
    query=AuditQuery,
    problems={400: "invalid query"},
)
def audit() -> Response:
    """Check the ledger's invariants and return the counts."""
    totals, now = services().totals, services().now()
    is_whole = read_query(AuditQuery).whole
    return json_of(AuditView.of(totals.audit() if is_whole else totals.recent_audit(now)))


@blueprint.get("/api/stream")
@documented(
    "Stream events",
    {
        200: ResponseDoc(
            "server-sent events: id is the event's number, event its type, data the EventView",
            media="text/event-stream",
        )
    },
    query=EventsQuery,
    headers={"Last-Event-ID": {"type": "string", "pattern": "^[0-9]{1,18}$"}},
    problems={400: "invalid query"},
)
def stream() -> Response:
    """Stream events as they occur.

    Begin after ``Last-Event-ID`` or ``after`` if given, else with the next new event.
    """
    after, extensions = _first_position(), current_app.extensions
    if not _slots.acquire(blocking=False):
        return problem(
            503,
            f"{MAX_STREAMS} streams are open already; poll /api/events instead",
            retry_after=RETRY_AFTER,
        )
    has_hung_up = partial(is_closed, request.environ.get("gunicorn.socket"))
    has_ended = auth.session_end()
    response = Response(
        _stream(services(), after, lambda: has_hung_up() or is_stopping(extensions) or has_ended()),
        content_type="text/event-stream; charset=utf-8",
    )
    response.call_on_close(_slots.release)
    response.headers["X-Accel-Buffering"] = "no"  # otherwise nginx buffers events
    return response


def _first_position() -> int:
    """Return the number of the event after which the stream begins."""
    given = request.headers.get("Last-Event-ID", "")
    if given:
        if not (given.isascii() and given.isdigit() and len(given) <= 18):  # noqa: PLR2004 - as in EventsQuery
            raise BadRequest("Last-Event-ID is the number of an event")
        return int(given)
    if "after" in request.args:
        return read_query(EventsQuery).after
    return services().events.newest()


def _stream(services: Services, after: int, is_over: Callable[[], bool]) -> Iterator[str]:
    """Yield the text of the stream until it has ended or lasts too long; wait for the ledger."""
    yield f"retry: {int(QUERY_INTERVAL * 4000)}\n\n"
    silence = 0.0
    for _ in range(int(MAX_DURATION / QUERY_INTERVAL)):
        try:
            if is_over():
                return
            rows = services.events.after(after)
        except LedgerError:
            rows = []
        for row in rows:
            event = Event.read(row)
            data = services.serializer.body(event)
            yield f"id: {event.number}\nevent: {event.type}\ndata: {data}\n\n"
            after = event.number
        silence = 0.0 if rows else silence + QUERY_INTERVAL
        if silence >= HEARTBEAT:
            silence = 0.0
            yield ": still here\n\n"
        _never.wait(0 if rows else QUERY_INTERVAL)
