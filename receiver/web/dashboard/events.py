"""The destinations of events: what waits and fails there, a test event, and sending at once."""

import threading

from flask import Response, redirect
from werkzeug.wrappers import Response as AnyResponse

from receiver.errors import LedgerError, ReceiverError
from receiver.events.dispatcher import DestinationAnswer
from receiver.jobs.job_object import webhook_shown
from receiver.ledger.event_queue import JOB_WEBHOOKS
from receiver.web.dashboard.base import blueprint, error_page, form, is_fragment, localized, page
from receiver.web.dashboard.summary import statistics
from receiver.web.state import services

# Failing deliveries on the page, and deliveries that one request makes due.
ROWS, MOST_DUE = 50, 20_000
# A test event occupies one of the process's threads for up to 15 s, which callbacks need too.
_tests = threading.BoundedSemaphore(1)


@blueprint.get("/events")
def event_destinations() -> Response:
    """Show every destination of events, and the deliveries that fail."""
    return _page()


@blueprint.get("/events/test")
def after_test() -> AnyResponse:
    """Redirect to the page; the links that change its language come here with a GET."""
    return redirect("/events", 303)


@blueprint.post("/events/expedite")
def expedite_events() -> AnyResponse:
    """Send what waits for a destination at once."""
    try:
        services().outbox.expedite(form().get("destination", ""), MOST_DUE)
    except LedgerError:
        raise
    except ReceiverError as error:
        return error_page(409, "error_409", str(error), back="/events")
    services().engine.notify()
    return redirect("/events?notice=due", 303)


@blueprint.post("/events/test")
def send_test_event() -> Response:
    """Send a test event to a destination, and show what it answers."""
    name = form().get("destination", "")
    if not _tests.acquire(blocking=False):
        return error_page(503, "error_503", localized("test_busy"), back="/events")
    try:
        answer = services().send_test_event(name)
        is_named = name in services().settings.served
        # The URL of a job's webhook may be a secret.
        return _page(name if is_named else webhook_shown(name) or "", answer)
    except LedgerError:
        raise
    except ReceiverError as error:
        return error_page(409, "error_409", str(error), back="/events")
    finally:
        _tests.release()


def _page(tested: str = "", answer: DestinationAnswer | None = None) -> Response:
    named = services().settings.served
    rows = statistics().destinations()
    values = {
        "rows": sorted(rows, key=lambda row: (row.destination not in named, -row.failing)),
        "named": named,
        "of_jobs": JOB_WEBHOOKS,
        "missing": sorted(set(named) - {row.destination for row in rows} - {JOB_WEBHOOKS}),
        "failing": services().events.failing(list(named), ROWS),
        "now": services().now(),
        "tested": tested,
        "answer": answer,
    }
    return page("_events.html" if is_fragment() else "events.html", values)
