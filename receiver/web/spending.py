"""Credits left, and cost per model and day: asked and computed in the background, and cached."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, tzinfo
from decimal import Decimal
from functools import partial
from typing import Generic, TypeVar

from receiver.errors import ProviderError
from receiver.jobs.prices import price_of, read_prices
from receiver.ledger.queries.spending import Spending, SpendingQueries
from receiver.ledger.queries.totals import Usage
from receiver.model import Provider
from receiver.providers.client import ProviderClient
from receiver.services import Services
from receiver.web.background import BackgroundValue
from receiver.web.cache import CachedValue
from receiver.web.state import per_app, services

T = TypeVar("T")

# Days shown, today included.
DAYS = 30
# Seconds for which the provider's number is kept, and that a request waits for the first one.
CREDITS_LIFETIME, CREDITS_LIMIT = 60.0, 2.0
# Seconds for which a computed value is kept at least, and that a request waits for the first one.
LIFETIME, LIMIT = 5.0, 0.5
# Time zones for which values are kept.
MOST_ZONES = 24


@dataclass(frozen=True, slots=True)
class Cost:
    """The spending of a model on a day, and what it cost; None if its model has no price."""

    spending: Spending
    cost: Decimal | None


@dataclass(frozen=True, slots=True)
class Balance:
    """The credits left at a provider; None if it does not tell, or because of ``error``."""

    provider: str
    credits: float | None
    error: str = ""


class Accounts:
    """Credits and costs of one application."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._prices = read_prices(services.settings.prices)
        self._balances = BackgroundValue(
            "credits", self._ask, CREDITS_LIFETIME, limit=CREDITS_LIMIT
        )
        self._spending = ByZone("spending", self._compute)
        self._usage = in_background("usage", services.totals.usage)

    def balances(self) -> list[Balance] | None:
        """Return the credits left at each provider; None if none has answered within 2 s."""
        return self._balances.get().value

    def known_balances(self) -> list[Balance] | None:
        """Return the last known credits at once; ask in the background if they are old."""
        return self._balances.peek().value

    def costs(self, zone: tzinfo = UTC) -> list[Cost] | None:
        """Return the costs of the last ``DAYS`` days, newest first; None if not computed yet."""
        return self._spending.get(zone)

    def usage(self) -> list[Usage] | None:
        """Return what became of each model's jobs, also older ones; None if not computed yet."""
        return value_of(self._usage)

    def _ask(self) -> list[Balance]:
        found = ((provider, self._services.clients.get(provider)) for provider in Provider)
        return [_balance(provider, client) for provider, client in found if client is not None]

    def _compute(self, zone: tzinfo) -> list[Cost]:
        found = SpendingQueries(self._services.database).days(self._services.now(), DAYS, zone)
        return [Cost(one, self._cost(one)) for one in found]

    def _cost(self, one: Spending) -> Decimal | None:
        price = price_of(self._prices, one.model)
        return None if price is None else price * one.pictures


def value_of(source: BackgroundValue[T]) -> T | None:
    """Return the last value, None before the first; raise the error if the last try failed."""
    answer = source.get()
    if answer.error is not None:
        raise answer.error
    return answer.value


def _balance(provider: Provider, client: ProviderClient) -> Balance:
    try:
        return Balance(provider.value, client.credits())
    except ProviderError as error:
        return Balance(provider.value, None, str(error))


def in_background(name: str, compute: Callable[[], T]) -> BackgroundValue[T]:
    """Return a value that a thread computes, at most 5 % of its time, however large the ledger."""
    cached = CachedValue(compute, LIFETIME, serve_stale=True, cost_factor=20.0)
    return BackgroundValue(name, cached.get, 1.0, limit=LIMIT)


class ByZone(Generic[T]):
    """Values that a thread computes for each time zone in which readers are."""

    def __init__(self, name: str, compute: Callable[[tzinfo], T]) -> None:
        self._name = name
        self._compute = compute
        self._values: dict[str, BackgroundValue[T]] = {}

    def get(self, zone: tzinfo) -> T | None:
        """Return the value for a zone, None before the first; raise the error of the last try."""
        if len(self._values) >= MOST_ZONES and str(zone) not in self._values:
            self._values.clear()  # readers are in few zones: after this, values are computed again
        value = in_background(self._name, partial(self._compute, zone))
        return value_of(self._values.setdefault(str(zone), value))


@per_app
def accounts() -> Accounts:
    """Return the accounts of the current application."""
    return Accounts(services())
