"""A backlog of assets: the URL that expires first is archived first, which saves the most.

The claims and the ledger are real. The worker is a simulation: a number of threads, each of which
needs the same virtual time for one picture. A picture is saved if its download began before its URL
expired. The best possible schedule is computed with the same rule.
"""

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import ceil

import pytest
from ledgers import LedgerHarness, opened, succeeded, urls

from receiver.ledger.rows import Asset
from receiver.model import AssetState, new_ref

BACKLOG, EACH = 2000, 20  # assets, and assets of one job
THREADS = 16
LIFETIMES = (600.0, 1200.0, 2400.0, 3600.0, 7200.0)  # of URLs: providers, and settings, differ

Name = tuple[str, int]


class Work:
    """One picture to be archived."""

    def __init__(self, name: Name, announced_at: float, dies_at: float) -> None:
        self.name, self.announced_at, self.dies_at = name, announced_at, dies_at


@pytest.fixture
def backlog(sqlite_url: str) -> Iterator[LedgerHarness]:
    """Announce 2,000 pictures with mixed lifetimes within nine minutes without a worker."""
    with opened(sqlite_url) as ledger:
        usual, chance = ledger.timing, random.Random(7)  # noqa: S311 - the same backlog every time
        for number in range(BACKLOG // EACH):
            ledger.use_timing(replace(usual, url_lifetime=chance.choice(LIFETIMES)))
            ledger.deliver(
                new_ref(ledger.clock()), succeeded(*urls(EACH), provider_id=f"task-{number}")
            )
            ledger.clock.advance(540.0 * EACH / BACKLOG)
        ledger.use_timing(usual)
        yield ledger


def works_of(ledger: LedgerHarness) -> list[Work]:
    """Read the backlog, in the order of its announcement."""
    jobs = reversed(ledger.queries.jobs(limit=BACKLOG))
    assets = ledger.queries.assets([job.ref for job in jobs])
    return [
        Work((asset.ref, asset.idx), asset.announced_at, asset.expires_at)
        for each in assets.values()
        for asset in each
    ]


def simulate(now: float, takes: float, pick: Callable[[float, int], list[Work]]) -> list[Work]:
    """Run the threads until nothing is left; return what they began in time, in that order."""
    saved: list[Work] = []
    busy: list[float] = []  # when each busy thread will be free
    while True:
        picked = pick(now, THREADS - len(busy))
        alive = [work for work in picked if work.dies_at > now]
        saved += alive  # an expired URL is answered 403 at once, and occupies no thread
        for _ in alive:
            heapq.heappush(busy, now + takes)
        if picked and len(alive) < len(picked):
            continue
        if not busy:
            return saved
        now = heapq.heappop(busy)
        while busy and busy[0] <= now:
            heapq.heappop(busy)


class Service:
    """The policy under test: the ledger's own claims."""

    def __init__(self, ledger: LedgerHarness) -> None:
        self.ledger = ledger

    def pick(self, now: float, free: int) -> list[Work]:
        """Claim one asset per free thread; record all results in one statement, which is faster."""
        self.ledger.clock.now = now
        claims = self.ledger.assets.claim(free)
        self.ledger.execute(
            "UPDATE assets SET "
            "state = CASE WHEN expires_at > :now THEN 'archived' ELSE 'expired' END,"
            " due_at = NULL, claim = NULL, finished_at = :now, key = ref || '/' || idx,"
            " sha256 = :sha256, size = 1,"
            " content_type = 'image/png' WHERE claim IS NOT NULL",
            now=now,
            sha256="0" * 64,
        )
        return [
            Work(
                (claimed.row.ref, claimed.row.idx), claimed.row.announced_at, claimed.row.expires_at
            )
            for claimed in claims
        ]


def first_in_first_out(works: list[Work]) -> Callable[[float, int], list[Work]]:
    """Return the policy of a plain queue over the same backlog."""
    queue = sorted(works, key=lambda work: (work.announced_at, work.name))

    def pick(_now: float, free: int) -> list[Work]:
        picked = queue[:free]
        del queue[:free]
        return picked

    return pick


def most_that_can_be_saved(works: list[Work], now: float, takes: float) -> int:
    """Return how many pictures the best schedule saves, without making the schedule.

    All threads begin at ``now`` and again after each picture, so there is a fixed number of places
    in time. If more URLs expire by some moment than there are places before it, no order saves the
    surplus; by Hall's theorem nothing more than the largest surplus is lost.
    """
    deaths = sorted(work.dies_at for work in works)
    surplus = [
        number - THREADS * max(0, ceil((moment - now) / takes))
        for number, moment in enumerate(deaths, start=1)
    ]
    return len(works) - max(0, *surplus)


@pytest.mark.parametrize(
    ("takes", "all_can_be_saved"),
    [(12.0, True), (60.0, False)],
    ids=["a slow archive", "an archive that is much too slow"],
)
def test_none_is_lost_that_could_have_been_saved(
    backlog: LedgerHarness, takes: float, *, all_can_be_saved: bool
) -> None:
    works, begin = works_of(backlog), backlog.clock.now
    possible = most_that_can_be_saved(works, begin, takes)
    saved = simulate(begin, takes, Service(backlog).pick)
    plain = simulate(begin, takes, first_in_first_out(works))
    assert (possible == BACKLOG) is all_can_be_saved
    assert len(saved) == possible
    assert [work.dies_at for work in saved] == sorted(work.dies_at for work in saved), (
        "the nearest deadline goes first"
    )
    assert len(plain) < 0.8 * len(saved)
    states = {(asset.ref, asset.idx): asset.state for each in all_assets(backlog) for asset in each}
    assert {name for name, state in states.items() if state is AssetState.ARCHIVED} == {
        work.name for work in saved
    }
    assert list(states.values()).count(AssetState.EXPIRED) == BACKLOG - possible


def all_assets(ledger: LedgerHarness) -> list[list[Asset]]:
    """Return the assets of every job."""
    return list(
        ledger.queries.assets([job.ref for job in ledger.queries.jobs(limit=BACKLOG)]).values()
    )
