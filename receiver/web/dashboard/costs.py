"""What the jobs cost: credits left, and cost per model and day."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from decimal import Decimal

from flask import Response

from receiver.web.dashboard.base import blueprint, is_fragment, page
from receiver.web.dashboard.charts import Stack, columns
from receiver.web.dashboard.job_filter import reader_zone
from receiver.web.spending import DAYS, Cost, accounts
from receiver.web.state import services


@dataclass(frozen=True, slots=True)
class CostTotal:
    """The sums of several rows; the cost is None if none has a price."""

    jobs: int
    free: int
    pictures: int
    cost: Decimal | None


@blueprint.get("/costs")
def costs() -> Response:
    """Show the credits left, and what the jobs of the last days cost."""
    zone = reader_zone()
    found = accounts().costs(zone)
    values = {
        "found": found,
        "balances": accounts().known_balances(),
        "days": DAYS,
        "zone": str(zone),
        "currency": services().settings.currency,
        **_totals(found or [], zone),
    }
    return page("_costs.html" if is_fragment() else "costs.html", values)


def _totals(found: Sequence[Cost], zone: tzinfo) -> dict[str, object]:
    models: dict[tuple[str, str], list[Cost]] = defaultdict(list)
    for one in found:
        models[one.spending.provider, one.spending.model].append(one)
    by_model = [(*name, _sum(rows)) for name, rows in models.items()]
    is_priced = any(one.cost is not None for one in found)
    return {
        "total": _sum(found),
        "is_priced": is_priced,
        "by_model": sorted(by_model, key=lambda row: (-(row[2].cost or 0), -row[2].jobs)),
        "chart": columns(_by_day(found, zone, is_priced=is_priced)),
        "unpriced": sorted({one.spending.model for one in found if one.cost is None}),
    }


def _by_day(found: Sequence[Cost], zone: tzinfo, *, is_priced: bool) -> list[Stack]:
    """Return a column for each day, the oldest first, also for days without jobs."""
    paid: dict[date, float] = defaultdict(float)
    for one in found:
        paid[one.spending.day] += float(one.cost or 0) if is_priced else one.spending.pictures
    today = datetime.fromtimestamp(services().now(), zone).date()
    days = [today - timedelta(days=ago) for ago in range(DAYS - 1, -1, -1)]
    return [Stack(day.isoformat(), [("paid", paid[day])]) for day in days]


def _sum(rows: Sequence[Cost]) -> CostTotal:
    priced = [one.cost for one in rows if one.cost is not None]
    return CostTotal(
        jobs=sum(one.spending.jobs for one in rows),
        free=sum(one.spending.free for one in rows),
        pictures=sum(one.spending.pictures for one in rows),
        cost=sum(priced, Decimal()) if priced else None,
    )
