"""Events as they come, by server-sent events: what ``/api/events`` lists, without asking again and again.

Each listener holds one of the process's threads, which callbacks need too: so there are few, and each is sent away after a while. It comes
back by itself, as browsers and other clients of this kind do, and says with ``Last-Event-ID`` where it was.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial

from flask import Response, current_app, request
from werkzeug.exceptions import BadRequest

from receiver.errors import LedgerError
from receiver.events.event import Event
from receiver.jobs.schemas import EventsQuery
from receiver.services import Services
from receiver.web.api.base import blueprint, read_query
from receiver.web.api.operations import Answer, described
from receiver.web.problems import problem
from receiver.web.state import is_stopping, services

# Listeners of one process at a time, and seconds until one that is sent away may come again.
MOST, RETRY_AFTER = 4, 15
# Seconds between looks at the ledger; between signs of life, so that nobody between us takes the connection for dead; of one connection.
LOOK, HEARTBEAT, LONGEST = 0.5, 15.0, 600.0

_places = threading.BoundedSemaphore(MOST)
_never = threading.Event()


@blueprint.get("/api/stream")
@described(
    "Listen to events",
    {
        200: Answer(
            "events: each with its number as id, its type, and the EventView as data",
            media="text/event-stream",
        )
    },
    query=EventsQuery,
    headers={"Last-Event-ID": {"type": "string", "pattern": "^[0-9]{1,18}$"}},
    problems={400: "a wrong question"},
)
def stream() -> Response:
    """Tell events as they come: those after ``Last-Event-ID`` or ``after``, else only new ones."""
    after, extensions = _start(), current_app.extensions
    if not _places.acquire(blocking=False):
        return problem(
            503,
            f"{MOST} listeners are connected already; ask /api/events instead",
            retry_after=RETRY_AFTER,
        )
    gone = partial(_is_gone, request.environ.get("gunicorn.socket"))
    response = Response(
        _tell(services(), after, lambda: gone() or is_stopping(extensions)),
        content_type="text/event-stream; charset=utf-8",
    )
    response.call_on_close(_places.release)
    response.headers["X-Accel-Buffering"] = "no"  # nginx would hold events back
    return response


def _start() -> int:
    given = request.headers.get("Last-Event-ID", "")
    if given:
        if not (given.isascii() and given.isdigit() and len(given) <= 18):  # noqa: PLR2004 - as EventsQuery has it
            raise BadRequest("Last-Event-ID is the number of an event")
        return int(given)
    return (
        read_query(EventsQuery).after if "after" in request.args else services().browse.last_event()
    )


def _is_gone(connection: socket.socket | None) -> bool:
    """Say whether the listener has hung up; writing to it would tell only after a while, and its place is wanted."""
    try:
        return (
            connection is not None
            and connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        )
    except BlockingIOError:
        return False  # silent, as listeners are
    except OSError:
        return True


def _tell(services: Services, after: int, is_over: Callable[[], bool]) -> Iterator[str]:
    """Give the text of the stream until it is over, or its time is; a ledger that is away for now is waited for."""
    yield f"retry: {int(LOOK * 4000)}\n\n"
    silence = 0.0
    looks = int(LONGEST / LOOK)
    for _ in range(looks):
        if is_over():
            return
        try:
            found = services.queries.events(after=after)
        except LedgerError:
            found = []
        for row in found:
            event = Event.read(row)
            yield f"id: {event.number}\nevent: {event.type}\ndata: {services.serializer.body(event)}\n\n"
            after = event.number
        silence = 0.0 if found else silence + LOOK
        if silence >= HEARTBEAT:
            silence = 0.0
            yield ": still here\n\n"
        _never.wait(0 if found else LOOK)
