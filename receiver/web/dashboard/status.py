"""The status of all jobs: the status bar, the invariants, pictures at risk, and work set aside."""

from flask import Response

from receiver.ledger.queries.set_aside import OddDelivery
from receiver.web.dashboard.base import blueprint, is_fragment, page
from receiver.web.dashboard.summary import endangered
from receiver.web.state import services

# Rows on a page, and unreadable bodies that are read again to say why; larger ones are not.
ROWS, EXPLAINED, MAX_EXPLAINED_SIZE = 100, 30, 64 * 1024


@blueprint.get("/status-bar")
def status_bar() -> Response:
    """Show how many jobs are in each state."""
    return page("_status_bar.html", {"wait_for_audit": True})


@blueprint.get("/audit")
def invariants() -> Response:
    """Show the result of the last audit."""
    return page("invariants.html")


@blueprint.get("/at-risk")
def at_risk() -> Response:
    """Show the pictures that may be lost soon, the earliest expiry first."""
    values = {
        "endangered": endangered(services(), ROWS),
    }
    return page("_at_risk.html" if is_fragment() else "at_risk.html", values)


@blueprint.get("/set-aside")
def set_aside() -> Response:
    """Show what was set aside: jobs, deliveries, events, and rejected files."""
    jobs = services().set_aside.jobs(limit=ROWS).jobs
    deliveries = services().set_aside.deliveries(limit=ROWS)
    values = {
        "jobs": jobs,
        "assets": services().queries.assets([job.ref for job in jobs]),
        "deliveries": deliveries,
        "complaints": _complaints(deliveries),
        "rejected": services().quarantine_records.waiting(ROWS),
        "event_deliveries": services().events.set_aside(limit=ROWS),
    }
    return page("set_aside.html", values)


def _complaints(found: list[OddDelivery]) -> dict[int, str]:
    """Return what is wrong with the newest unreadable bodies, by the delivery's number."""
    small = [row.id for row in found if row.size <= MAX_EXPLAINED_SIZE]
    return {number: services().operator.complaint(number) for number in small[:EXPLAINED]}
