"""The page that compares providers and models."""

from flask import Response, request

from receiver.ledger.queries.model_stats import ModelStats, quantile
from receiver.model import MARK_KINDS
from receiver.web.dashboard.base import blueprint, localized, page
from receiver.web.dashboard.charts import Bar, Line, bars, lines
from receiver.web.dashboard.summary import statistics

SPANS = {"last_hour": 3600, "last_day": 86400, "last_week": 7 * 86400, "last_month": 30 * 86400}
# Models in the charts; the table has all.
MAX_CHARTED = 12
_OUTCOMES = ("archived", "moderated", "failed", "expired", "in_flight")


@blueprint.get("/compare")
def compare() -> Response:
    """Compare the models of a time span."""
    span = request.args.get("span", "last_day")
    span = span if span in SPANS else "last_day"
    found = statistics().comparison(SPANS[span])
    charted = found.models[:MAX_CHARTED]
    values = {
        "span": span,
        "spans": SPANS,
        "found": found,
        "rows": [_row(model) for model in found.models],
        "outcomes": bars(
            [
                Bar(_name(model), [(end, getattr(model, end)) for end in _OUTCOMES])
                for model in charted
            ]
        ),
        "to_callback": lines([_line(model, model.to_callback) for model in charted]),
        "to_archive": lines([_line(model, model.to_archive) for model in charted]),
    }
    return page("compare.html", values)


def _name(model: ModelStats) -> str:
    return model.model or localized("no_prompt")


def _line(model: ModelStats, seconds: list[float]) -> Line:
    return Line(_name(model), quantile(seconds, 0.5), quantile(seconds, 0.95))


def _row(model: ModelStats) -> dict[str, object]:
    return {
        "stats": model,
        "name": _name(model),
        "callback": (quantile(model.to_callback, 0.5), quantile(model.to_callback, 0.95)),
        "archive": (quantile(model.to_archive, 0.5), quantile(model.to_archive, 0.95)),
        "least_left": min(model.life_left, default=None),
        "marks": [(kind, model.marks[kind]) for kind in MARK_KINDS if model.marks[kind]],
    }
