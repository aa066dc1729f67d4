"""What happened, and whether it all adds up."""

from flask import Response

from receiver.events.event import Event
from receiver.jobs.schemas import AuditView, EventList, EventsQuery, EventView
from receiver.web.api.base import blueprint, json_of, read_query
from receiver.web.api.operations import Answer, described
from receiver.web.state import services


@blueprint.get("/api/events")
@described(
    "List events, oldest first",
    {200: Answer("some events", EventList)},
    query=EventsQuery,
    problems={400: "a wrong question"},
)
def events() -> Response:
    """List events after the one numbered ``after``, oldest first."""
    asked = read_query(EventsQuery)
    rows, serializer = (
        services().queries.events(after=asked.after, limit=asked.limit),
        services().serializer,
    )
    found = [EventView.model_validate(serializer.object(Event.read(row))) for row in rows]
    return json_of(EventList(events=found, next=found[-1].number if found else None))


@blueprint.get("/api/audit")
@described(
    "Check the ledger's laws", {200: Answer("the figures, and what does not hold", AuditView)}
)
def audit() -> Response:
    """Check the ledger's laws and show the figures."""
    return json_of(AuditView.of(services().queries.audit()))
