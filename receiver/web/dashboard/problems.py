"""What needs a person: pictures in danger, and what was set aside."""

from flask import Response

from receiver.web.dashboard.base import blueprint, is_fragment, page
from receiver.web.dashboard.summary import danger_until
from receiver.web.state import services

# Rows on a page.
ROWS = 100


@blueprint.get("/danger")
def danger() -> Response:
    """Show the pictures that may be lost soon, the one that dies first at the head."""
    found = services().pictures.endangered(danger_until(services()), ROWS)
    values = {
        "endangered": found,
        "now": services().now(),
        "lifetime": services().timing.url_lifetime,
    }
    return page("_danger.html" if is_fragment() else "danger.html", values)


@blueprint.get("/set-aside")
def set_aside() -> Response:
    """Show what the service gave up on because it kept breaking."""
    jobs = services().set_aside.jobs(limit=ROWS)
    values: dict[str, object] = {
        "jobs": jobs.jobs,
        "assets": services().queries.assets([job.ref for job in jobs.jobs]),
    }
    values |= {
        "deliveries": services().set_aside.deliveries(limit=ROWS),
        "sendings": services().events.set_aside(limit=ROWS),
    }
    return page("set_aside.html", values)
