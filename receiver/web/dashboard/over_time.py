"""The page of charts over time."""

from collections.abc import Iterable
from datetime import datetime, tzinfo
from functools import partial

from flask import Response, request

from receiver.ledger.queries.over_time import Durations, Part, TimeQueries
from receiver.model import FINAL_STATES, JobState, Reason
from receiver.services import Services
from receiver.web.dashboard.base import blueprint, is_fragment, localized, page
from receiver.web.dashboard.charts import Columns, Stack, columns
from receiver.web.dashboard.job_filter import reader_zone
from receiver.web.spending import ByZone
from receiver.web.state import per_app, services

# Each time span: the seconds of one column, and how many columns there are.
SPANS = {
    "last_hour": (120, 30),
    "last_day": (3600, 24),
    "last_week": (6 * 3600, 28),
    "last_month": (86400, 30),
}
_ENDS = ("archived", "moderated", "failed", "expired", "in_flight")
_MODERATED = (Reason.INPUT_MODERATION, Reason.OUTPUT_MODERATION, Reason.VIOLATION)
_FAILURES = {
    "not_accepted": (Reason.REFUSED,),
    "moderated": _MODERATED,
    "failed": (Reason.PROVIDER_ERROR,),
    "unusable": (Reason.NO_RESULT, Reason.BAD_ASSET),
}


class OverTime:
    """The figures of one application, for each time span."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._queries = TimeQueries(services.database)
        self._parts = {name: ByZone(name, partial(self._read, name)) for name in SPANS}

    def parts(self, span: str, zone: tzinfo) -> list[Part] | None:
        """Return the parts of a time span, the oldest first; None if not computed yet."""
        return self._parts[span].get(zone)

    def _read(self, span: str, zone: tzinfo) -> list[Part]:
        width, count = SPANS[span]
        return self._queries.parts(self._services.now(), width, count, zone)


@per_app
def _over_time() -> OverTime:
    return OverTime(services())


@blueprint.get("/charts")
def charts() -> Response:
    """Show the ends of jobs, durations and failures over time."""
    span = request.args.get("span", "last_day")
    span = span if span in SPANS else "last_day"
    zone = reader_zone()
    found = _over_time().parts(span, zone)
    values = {
        "span": span,
        "spans": SPANS,
        "parts": found,
        "moments": (found[0].start, found[-1].start) if found else None,
        "rows": []
        if found is None
        else [(part.start, _ends(part), _failures(part)) for part in found],
        "charts": {} if found is None else _drawn(found, zone),
        "ends": _named(_ENDS),
        "failures": [*_named(_FAILURES), ("expired", localized("expired"))],
        "is_empty": found is not None and not any(part.states for part in found),
    }
    return page("_charts.html" if is_fragment() else "charts.html", values)


def _drawn(parts: list[Part], zone: tzinfo) -> dict[str, Columns]:
    named = [(_name(part, zone), part) for part in parts]
    return {
        "ends": columns([Stack(name, list(_ends(part).items())) for name, part in named]),
        "failures": columns([Stack(name, list(_failures(part).items())) for name, part in named]),
        "to_callback": columns(
            [_span_of(name, part.to_callback) for name, part in named], overlaid=True
        ),
        "to_archive": columns(
            [_span_of(name, part.to_archive) for name, part in named], overlaid=True
        ),
    }


def _named(kinds: Iterable[str]) -> list[tuple[str, str]]:
    return [(kind, localized(kind)) for kind in kinds]


def _name(part: Part, zone: tzinfo) -> str:
    return f"{datetime.fromtimestamp(part.start, zone):%Y-%m-%d %H:%M %Z}"


def _span_of(name: str, found: Durations) -> Stack:
    return Stack(name, [("most", found.most or 0.0), ("half", found.half or 0.0)])


def _ends(part: Part) -> dict[str, int]:
    moderated = sum(part.reasons[reason] for reason in _MODERATED)
    unfinished = [state for state in JobState if state not in FINAL_STATES]
    return {
        "archived": part.states[JobState.ARCHIVED],
        "moderated": moderated,
        "failed": part.states[JobState.FAILED] - moderated,
        "expired": part.states[JobState.EXPIRED],
        "in_flight": sum(part.states[state] for state in unfinished),
    }


def _failures(part: Part) -> dict[str, int]:
    counted = {
        kind: sum(part.reasons[reason] for reason in reasons) for kind, reasons in _FAILURES.items()
    }
    return {**counted, "expired": part.states[JobState.EXPIRED]}
