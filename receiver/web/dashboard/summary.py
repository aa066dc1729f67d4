"""Numbers that many pages show and that cost a query: computed by one thread, and cached."""

from dataclasses import dataclass
from functools import partial

from receiver.ledger.queries.audit import Audit
from receiver.ledger.queries.events import DestinationStatus
from receiver.ledger.queries.model_stats import Comparison, ModelQueries
from receiver.ledger.queries.pictures import Endangered
from receiver.ledger.queries.totals import FEW
from receiver.model import FINAL_STATES, JobState, risk_begins
from receiver.services import Services
from receiver.web.cache import CachedValue
from receiver.web.state import per_app, services

# Rows at risk, set aside or failing are counted up to this number.
MAX_COUNT = 99
# With cost_factor 20, refreshing takes at most 5 % of one thread, however large the ledger.
_Cached = partial(CachedValue, serve_stale=True, cost_factor=20.0)


@dataclass(frozen=True, slots=True)
class Summary:
    """The number of jobs in each state, and the last audit at ``audited_at`` (epoch seconds)."""

    states: dict[str, int]
    audit: Audit | None  # None if there was no audit yet
    audited_at: float | None
    at_risk: int
    set_aside: int
    failing_events: int

    @property
    def submitted(self) -> int:
        """All jobs."""
        return sum(self.states.values())

    @property
    def in_flight(self) -> int:
        """Jobs that are not in a final state."""
        return sum(number for state, number in self.states.items() if state not in FINAL_STATES)

    def bar(self) -> list[tuple[str, float, float]]:
        """Return each state with its start and length in a bar of 1000.

        A state with few jobs is drawn longer than its share, so that it can be seen.
        """
        order = [*FINAL_STATES, *(state for state in JobState if state not in FINAL_STATES)]
        weights = [
            (
                state.value,
                max(self.states[state] / max(self.submitted, 1), 0.008 * (self.states[state] > 0)),
            )
            for state in order
        ]
        whole, parts, start = sum(weight for _, weight in weights) or 1.0, [], 0.0
        for name, weight in weights:
            parts.append((name, start, 1000 * weight / whole))
            start += 1000 * weight / whole
        return parts


class Statistics:
    """The cached numbers of one application."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._states = _Cached(services.totals.counts, 1.0)
        self._audit = _Cached(
            lambda: (services.totals.recent_audit(services.now()), services.now()), 10.0
        )
        self._at_risk = _Cached(lambda: len(endangered(services, MAX_COUNT)), 2.0)
        self._set_aside = _Cached(
            lambda: min(
                MAX_COUNT,
                services.set_aside.count(MAX_COUNT)
                + len(services.events.set_aside(limit=MAX_COUNT)),
            ),
            5.0,
        )
        served = list(services.settings.served)
        self._failing_events = _Cached(
            lambda: services.events.count_failing(served, MAX_COUNT), 2.0
        )
        self._destinations = _Cached(services.events.destinations, 1.0)
        self._comparisons: dict[int, CachedValue[Comparison]] = {}

    def summary(self, *, wait_for_audit: bool = False) -> Summary:
        """Return the summary of all jobs.

        With very many jobs an audit takes seconds; ``wait_for_audit`` waits for the first one.
        """
        states = self._states.get()
        wait = wait_for_audit or sum(states.values()) <= FEW
        audit, audited_at = (self._audit.get() if wait else self._audit.peek()) or (None, None)
        return Summary(
            states,
            audit,
            audited_at,
            at_risk=self._at_risk.get(),
            set_aside=self._set_aside.get(),
            failing_events=self._failing_events.get(),
        )

    def destinations(self) -> list[DestinationStatus]:
        """Return the state of every destination of events."""
        return self._destinations.get()

    def comparison(self, seconds: int) -> Comparison:
        """Return the comparison of the models of the last ``seconds``."""
        services, compare = self._services, ModelQueries(self._services.database)
        return self._comparisons.setdefault(
            seconds, _Cached(lambda: compare.since(services.now() - seconds), 2.0)
        ).get()


@per_app
def statistics() -> Statistics:
    """Return the statistics of the current application."""
    return Statistics(services())


def endangered(services: Services, limit: int) -> list[Endangered]:
    """Return the pictures that may be lost, sorted by the expiry of their URLs."""
    return services.pictures.endangered(at_risk_before(services), limit, now=services.now())


def at_risk_before(services: Services) -> float:
    """Return the time before which a URL's expiry puts its picture at risk.

    That is the last quarter of the URL's lifetime.
    """
    now, lifetime = services.now(), services.timing.url_lifetime
    return 2 * now - risk_begins(now, lifetime)
