"""How providers and models compare, drawn."""

from flask import Response, request

from receiver.ledger.queries.model_stats import Figures, quantile
from receiver.web.dashboard.base import blueprint, page, said
from receiver.web.dashboard.charts import Bar, Line, bars, lines
from receiver.web.dashboard.summary import figures

SPANS = {"last_hour": 3600, "last_day": 86400, "last_week": 7 * 86400, "last_month": 30 * 86400}
# Models that are drawn; the table below names more.
DRAWN = 12
_ENDS = ("archived", "moderated", "failed", "expired", "in_flight")


@blueprint.get("/compare")
def compare() -> Response:
    """Compare the models of some time."""
    span = request.args.get("span", "last_day")
    span = span if span in SPANS else "last_day"
    found = figures().comparison(SPANS[span])
    drawn = found.models[:DRAWN]
    values = {
        "span": span,
        "spans": SPANS,
        "found": found,
        "rows": [_row(model) for model in found.models],
        "outcomes": bars(
            [Bar(_name(model), [(end, getattr(model, end)) for end in _ENDS]) for model in drawn]
        ),
        "to_callback": lines([_line(model, model.to_callback) for model in drawn]),
        "to_archive": lines([_line(model, model.to_archive) for model in drawn]),
    }
    return page("compare.html", values)


def _name(model: Figures) -> str:
    return model.model or said("no_prompt")


def _line(model: Figures, values: list[float]) -> Line:
    return Line(_name(model), quantile(values, 0.5), quantile(values, 0.95))


def _row(model: Figures) -> dict[str, object]:
    quarters = {
        "callback": (quantile(model.to_callback, 0.5), quantile(model.to_callback, 0.95)),
        "archive": (quantile(model.to_archive, 0.5), quantile(model.to_archive, 0.95)),
    }
    return {
        "figures": model,
        "name": _name(model),
        **quarters,
        "least_left": min(model.life_left, default=None),
    }
