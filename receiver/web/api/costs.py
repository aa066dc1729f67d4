"""Credits left at GRSAI, and what the jobs cost."""

from dataclasses import asdict

from flask import Response
from pydantic import BaseModel, ConfigDict

from receiver.ledger.queries.totals import Usage
from receiver.model import Provider
from receiver.web.api.base import blueprint, json_of
from receiver.web.api.operations import ResponseDoc, documented
from receiver.web.problems import RETRY_AFTER, problem
from receiver.web.spending import DAYS, Balance, Cost, accounts
from receiver.web.state import services


class CostView(BaseModel):
    """The jobs of one model on one day (UTC), and what they cost.

    ``free`` jobs were refused, or failed at the provider, which returns the credits; ``pictures``
    were asked for by the others. ``cost`` is null if PRICES has no price of the model.
    """

    model_config = ConfigDict(frozen=True)

    day: str
    provider: str
    model: str
    jobs: int
    free: int
    archived: int
    pictures: int
    cost: float | None

    @classmethod
    def of(cls, found: Cost) -> "CostView":
        """Show one model's day."""
        one, cost = found.spending, found.cost
        return cls(
            day=one.day.isoformat(),
            provider=one.provider,
            model=one.model,
            jobs=one.jobs,
            free=one.free,
            archived=one.archived,
            pictures=one.pictures,
            cost=None if cost is None else float(cost),
        )


class UsageView(BaseModel):
    """What became of all jobs of a model; every job is counted in one other field."""

    model_config = ConfigDict(frozen=True)

    provider: str
    model: str
    submitted: int
    archived: int
    refunded: int
    refused: int
    failed: int
    expired: int
    in_flight: int

    @classmethod
    def of(cls, usage: Usage) -> "UsageView":
        """Show one model's jobs."""
        return cls(**asdict(usage))


class BalanceView(BaseModel):
    """The credits left at a provider; null if it does not say. ``error`` if it was not asked."""

    provider: str
    credits: float | None
    error: str


class CreditsView(BaseModel):
    """Credits left at GRSAI, what became of the jobs, and what those of the last days cost.

    ``credits`` is null without an answer of GRSAI; then ``error`` says why. ``costs`` are by day
    and model, newest day first; ``total`` is their sum in ``currency``, without models that have
    no price. ``models`` counts all jobs, also older ones.
    """

    credits: float | None
    error: str
    providers: list[BalanceView]
    days: int
    currency: str
    total: float
    costs: list[CostView]
    models: list[UsageView]


@blueprint.get("/api/credits")
@documented(
    "Show credits and costs", {200: ResponseDoc("credits left, and costs by day", CreditsView)}
)
def show_credits() -> Response:
    """Show the credits left at GRSAI, and the cost of each model on each of the last days."""
    found, models = accounts().costs(), accounts().usage()
    if found is None or models is None:
        return problem(503, "the costs are being computed", retry_after=RETRY_AFTER)
    balances = _balances()
    grsai = next(one for one in balances if one.provider == Provider.GRSAI)
    return json_of(
        CreditsView(
            credits=grsai.credits,
            error=grsai.error,
            providers=balances,
            days=DAYS,
            currency=services().settings.currency,
            total=float(sum(one.cost or 0 for one in found)),
            costs=[CostView.of(one) for one in found],
            models=[UsageView.of(one) for one in models],
        )
    )


def _balances() -> list[BalanceView]:
    """Return the credits left at each provider that has a key, GRSAI always."""
    asked = services().clients.can_ask(Provider.GRSAI)
    why = "GRSAI has not answered yet" if asked else "GRSAI_API_KEY is not set"
    yet = Balance(Provider.GRSAI.value, None, why)
    found = accounts().balances() or []
    if all(one.provider != Provider.GRSAI for one in found):
        found = [yet, *found]
    return [
        BalanceView(provider=one.provider, credits=one.credits, error=one.error) for one in found
    ]
