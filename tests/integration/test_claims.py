"""Claims on both databases: nearest deadline first, one owner, and lost leases change nothing."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from ledgers import BASE_URL, NOW, TIMING, LedgerHarness, opened, stored, succeeded, urls
from side_by_side import side_by_side

from receiver.errors import ClaimLostError
from receiver.ledger.claims import LEASE, Claimed, update_claimed
from receiver.ledger.rows import Asset, Job
from receiver.model import AssetState, JobState, Source, new_ref

pytestmark = pytest.mark.both_databases

# Plans for tables of other sizes, forced on PostgreSQL to check that the limit holds in each.
PLANS = [
    [],
    ["hashjoin", "mergejoin", "hashagg", "sort", "material"],
    ["hashjoin", "mergejoin", "hashagg", "material"],
    ["nestloop", "hashjoin", "indexscan", "bitmapscan"],
    ["nestloop", "mergejoin", "indexscan", "indexonlyscan"],
]


def claim_asset(ledger: LedgerHarness) -> Claimed[Asset]:
    (claimed,) = ledger.assets.claim(1)
    return claimed


def claim_job(ledger: LedgerHarness) -> Claimed[Job]:
    (claimed,) = ledger.jobs.claim(1)
    return claimed


# Which row is claimed.


def test_of_all_that_is_due_the_url_that_dies_first_is_claimed_first(ledger: LedgerHarness) -> None:
    refs = []
    for number in range(4):
        refs.append(ledger.archiving(1, f"task-{number}"))
        ledger.clock.advance(60)
    ledger.deliver(
        refs[0], succeeded("https://files.test/fresh", provider_id="task-0"), Source.POLL
    )  # now the last to die
    for held in ledger.assets.claim(2):
        ledger.assets.retry(held, ledger.clock(), "again")  # due last, but not dying last
    assert [claim_asset(ledger).row.ref for _ in refs] == [refs[1], refs[2], refs[3], refs[0]]


def test_several_claims_are_handed_out_in_the_order_of_their_deadlines(
    ledger: LedgerHarness,
) -> None:
    refs = [ledger.archiving(1, f"task-{number}") for number in range(3)]
    for wait, number in ((10, 1), (20, 0), (30, 2)):
        ledger.clock.now = NOW + wait
        ledger.deliver(
            refs[number],
            succeeded(f"https://files.test/{wait}", provider_id=f"task-{number}"),
            Source.POLL,
        )
    assert [claimed.row.ref for claimed in ledger.assets.claim(10)] == [
        refs[1],
        refs[0],
        refs[2],
    ]


def test_of_all_jobs_the_longest_due_is_claimed_first(ledger: LedgerHarness) -> None:
    refs = []
    for number in range(3):
        refs.append(ledger.waiting(f"task-{number}"))
        ledger.clock.advance(10)
    ledger.jobs.release(_claim_when_due(ledger, refs[0]), NOW + 125)
    ledger.clock.now = NOW + 200
    assert [claim_job(ledger).row.ref for _ in refs] == [refs[0], refs[1], refs[2]]


def _claim_when_due(ledger: LedgerHarness, ref: str) -> Claimed[Job]:
    ledger.clock.now = NOW + 120
    claimed = claim_job(ledger)
    assert claimed.row.ref == ref
    return claimed


def test_nothing_is_claimed_before_it_is_due(ledger: LedgerHarness) -> None:
    ledger.waiting()
    ledger.clock.now = NOW + 119.9
    assert ledger.jobs.claim(10) == []
    ledger.clock.now = NOW + 120
    assert len(ledger.jobs.claim(10)) == 1


def test_a_claimed_row_cannot_be_claimed_again_until_its_lease_ends(ledger: LedgerHarness) -> None:
    ledger.archiving()
    first = claim_asset(ledger)
    assert (first.row.claim, first.row.attempts, first.row.due_at) == (first.token, 1, NOW + LEASE)
    ledger.clock.advance(LEASE - 0.1)
    assert ledger.assets.claim(10) == []
    ledger.clock.advance(0.1)
    second = claim_asset(ledger)
    assert (second.row.attempts, second.row.idx) == (2, first.row.idx)
    assert second.token != first.token


@pytest.mark.parametrize("switched_off", PLANS)
def test_no_plan_of_the_database_claims_more_than_it_was_asked_for(
    postgres_url: str, switched_off: list[str]
) -> None:
    options = "%20".join(f"-c%20enable_{kind}%3Doff" for kind in switched_off)
    with opened(f"{postgres_url}&options={options}") as ledger:
        ledger.archiving(9)
        for number in range(6):
            ledger.waiting(f"task-{number + 2}")
        ledger.clock.advance(120)
        assert [len(ledger.assets.claim(4)) for _ in range(4)] == [4, 4, 1, 0]
        assert [len(ledger.jobs.claim(4)) for _ in range(3)] == [4, 2, 0]


def test_racing_claimers_never_get_the_same_row_and_leave_none(ledger: LedgerHarness) -> None:
    refs = [ledger.archiving(5, f"task-{number}") for number in range(12)]

    def claim_until_nothing_is_left() -> list[tuple[str, int]]:
        mine: list[tuple[str, int]] = []
        while claims := ledger.assets.claim(3):
            mine += [(claimed.row.ref, claimed.row.idx) for claimed in claims]
        return mine

    claimed = Counter(
        row for mine in side_by_side([claim_until_nothing_is_left] * 8) for row in mine
    )
    assert claimed == Counter({(ref, idx): 1 for ref in refs for idx in range(5)})


# A lost lease.


def lose(ledger: LedgerHarness, claimed: Claimed[Any]) -> None:
    """Let the lease end and another worker take the row."""
    ledger.clock.advance(LEASE)
    successors = ledger.assets.claim(1) if isinstance(claimed.row, Asset) else ledger.jobs.claim(1)
    assert [successor.row.ref for successor in successors] == [claimed.row.ref]


@pytest.mark.parametrize(
    "happening",
    [
        lambda ledger, claimed: ledger.assets.finish(claimed, stored(claimed)),
        lambda ledger, claimed: ledger.assets.give_up(claimed, AssetState.FAILED, "bad"),
        lambda ledger, claimed: ledger.assets.retry(claimed, NOW + 1, "again"),
        lambda ledger, claimed: ledger.assets.retry(
            claimed, NOW + 1, "again", counted=False, refresh_url=True
        ),
    ],
    ids=["finish", "give up", "retry", "ask again"],
)
def test_a_worker_that_lost_the_lease_of_an_asset_changes_nothing(
    ledger: LedgerHarness, happening: Callable[[LedgerHarness, Claimed[Asset]], None]
) -> None:
    ledger.archiving()
    claimed = claim_asset(ledger)
    lose(ledger, claimed)
    before = ledger.everything()
    with pytest.raises(ClaimLostError):
        happening(ledger, claimed)
    assert ledger.everything() == before


@pytest.mark.parametrize(
    "happening",
    [
        lambda ledger, claimed: ledger.jobs.conclude(claimed, JobState.ARCHIVED),
        lambda ledger, claimed: ledger.jobs.release(claimed, NOW + 1),
        lambda ledger, claimed: ledger.jobs.announce_risk(claimed, "hurry"),
    ],
    ids=["conclude", "look again", "announce the risk"],
)
def test_a_worker_that_lost_the_lease_of_a_job_changes_nothing(
    ledger: LedgerHarness, happening: Callable[[LedgerHarness, Claimed[Job]], object]
) -> None:
    ledger.archiving()
    for asset in ledger.assets.claim(1):
        ledger.assets.finish(asset, stored(asset))
    claimed = claim_job(ledger)
    lose(ledger, claimed)
    before = ledger.everything()
    with pytest.raises(ClaimLostError):
        happening(ledger, claimed)
    assert ledger.everything() == before


@pytest.mark.parametrize("happening", ["renew", "release"])
def test_a_lost_lease_among_several_is_skipped(ledger: LedgerHarness, happening: str) -> None:
    ledger.archiving(2)
    lost, kept = ledger.assets.claim(2)
    ledger.assets.finish(lost, stored(lost))
    before = ledger.assets_of(lost.row.ref)[0]
    ledger.clock.advance(30)
    getattr(ledger.claims, happening)([lost, kept])
    first, second = ledger.assets_of(lost.row.ref)
    assert first == before
    assert second.due_at == {"renew": NOW + 30 + LEASE, "release": NOW + 30}[happening]


def test_a_hint_too_has_one_owner_at_a_time(ledger: LedgerHarness) -> None:
    ledger.hints.add("task-1")
    (first,) = ledger.hints.claim(10)
    assert ledger.hints.claim(10) == []
    ledger.clock.advance(LEASE)
    (second,) = ledger.hints.claim(10)
    with pytest.raises(ClaimLostError):
        ledger.hints.release(first, NOW)
    ledger.hints.adopt(new_ref(NOW), second.row, BASE_URL)
    with pytest.raises(ClaimLostError):
        ledger.hints.release(second, NOW)


# Giving back.


def test_a_renewed_lease_ends_later(ledger: LedgerHarness) -> None:
    ref = ledger.archiving()
    claimed = claim_asset(ledger)
    ledger.clock.advance(LEASE - 1)
    ledger.claims.renew([claimed])
    ledger.clock.advance(LEASE - 1)
    assert ledger.assets.claim(10) == []
    ledger.assets.finish(claimed, stored(claimed))
    assert ledger.pending(ref) == []


def test_what_is_handed_back_is_due_at_once_and_counts_as_an_attempt(ledger: LedgerHarness) -> None:
    ledger.archiving()
    ledger.waiting("task-2")
    ledger.hints.add("task-3")
    ledger.clock.advance(120)
    held: list[Claimed[Any]] = [
        *ledger.assets.claim(1),
        *ledger.jobs.claim(1),
        *ledger.hints.claim(1),
    ]
    ledger.claims.release(held)
    again: list[Claimed[Any]] = [
        *ledger.assets.claim(1),
        *ledger.jobs.claim(1),
        *ledger.hints.claim(1),
    ]
    assert [claimed.row.attempts for claimed in again] == [
        2,
        2,
        2,
    ]  # what was begun may have put an object


def test_a_worker_that_starts_alone_takes_over_every_lease_at_once(ledger: LedgerHarness) -> None:
    ledger.archiving(2)
    ledger.waiting("task-2")
    ledger.hints.add("task-3")
    ledger.clock.advance(120)
    dead: list[Claimed[Any]] = [
        *ledger.assets.claim(1),
        *ledger.jobs.claim(1),
        *ledger.hints.claim(1),
    ]
    assert ledger.claims.take_over() == 3
    alive: list[Claimed[Any]] = [
        *ledger.assets.claim(5),
        *ledger.jobs.claim(5),
        *ledger.hints.claim(5),
    ]
    assert sorted(claimed.row.attempts for claimed in alive) == [1, 2, 2, 2]
    for claimed in dead:
        with pytest.raises(ClaimLostError):
            ledger.database.write(partial(update_claimed, claimed=claimed, claim=None))
    assert ledger.claims.take_over() == 4


@pytest.mark.parametrize(("counted", "attempts"), [(True, 2), (False, 1)])
def test_an_attempt_that_says_nothing_about_the_asset_does_not_count(
    ledger: LedgerHarness,
    counted: bool,  # noqa: FBT001 - a row of the table
    attempts: int,
) -> None:
    ref = ledger.archiving()
    ledger.assets.retry(claim_asset(ledger), NOW + 15, "the archive is away", counted=counted)
    (asset,) = ledger.assets_of(ref)
    assert (asset.due_at, asset.claim, asset.error) == (NOW + 15, None, "the archive is away")
    ledger.clock.advance(15)
    assert claim_asset(ledger).row.attempts == attempts


def test_a_dead_url_has_its_job_asked_for_a_fresh_one_but_not_while_it_is_being_asked(
    ledger: LedgerHarness,
) -> None:
    ref = ledger.archiving(2)
    first, second = ledger.assets.claim(2)
    ledger.assets.retry(first, NOW + 4, "404", refresh_url=True)
    assert ledger.job(ref).due_at == NOW
    asking = claim_job(ledger)
    ledger.assets.retry(second, NOW + 4, "404", refresh_url=True)
    assert (ledger.job(ref).claim, ledger.job(ref).due_at) == (asking.token, NOW + LEASE)


# The last asset.


@pytest.mark.parametrize("asked_about", [False, True])
def test_the_last_asset_makes_its_job_due_even_while_it_is_leased(
    ledger: LedgerHarness,
    asked_about: bool,  # noqa: FBT001 - a row of the table
) -> None:
    ref = ledger.archiving(2)
    first, last = ledger.assets.claim(2)
    ledger.assets.finish(first, stored(first))
    assert (ledger.job(ref).due_at or 0) > NOW
    if asked_about:
        ledger.execute("UPDATE jobs SET due_at = 0")
        looking = claim_job(ledger)
    ledger.assets.give_up(last, AssetState.EXPIRED, "gone")
    assert (ledger.job(ref).due_at, ledger.job(ref).claim) == (NOW, None)
    if asked_about:
        with pytest.raises(ClaimLostError):
            ledger.jobs.release(looking, NOW + 1000)


def test_two_assets_that_finish_at_the_same_instant_always_leave_their_job_due(
    ledger: LedgerHarness,
) -> None:
    refs = [ledger.archiving(2, f"task-{number}") for number in range(15)]
    by_job: dict[str, list[Claimed[Asset]]] = {ref: [] for ref in refs}
    for claimed in ledger.assets.claim(100):
        by_job[claimed.row.ref].append(claimed)
    for pair in by_job.values():
        side_by_side([partial(ledger.assets.finish, claimed, stored(claimed)) for claimed in pair])
    assert {ledger.job(ref).due_at for ref in refs} == {NOW}
    assert {claimed.row.ref for claimed in ledger.jobs.claim(100)} == set(refs)


def test_workers_that_renew_finish_and_hear_fresh_urls_at_once_do_not_stop_each_other(
    ledger: LedgerHarness,
) -> None:
    refs = [ledger.archiving(4, f"task-{number}") for number in range(4)]
    held = ledger.assets.claim(16)
    ledger.clock.advance(6000)
    asked = ledger.jobs.claim(4)

    def renew_again_and_again() -> None:
        for _ in range(15):
            ledger.claims.renew([*held[::-1], *asked])

    def hear_again_and_again(number: int) -> None:
        for version in range(15):
            fresh = succeeded(*urls(4, f"version-{version}"), provider_id=f"task-{number}")
            ledger.deliver(refs[number], fresh, Source.POLL)

    works: list[Callable[[], None]] = [partial(hear_again_and_again, number) for number in range(4)]
    side_by_side([renew_again_and_again, *works])
    assert ledger.totals.audit().ok


def test_complete_jobs_do_not_queue_up_behind_those_to_be_polled(ledger: LedgerHarness) -> None:
    complete = ledger.archiving(1)
    (asset,) = ledger.assets.claim(1)
    ledger.assets.finish(asset, stored(asset))
    overdue = [ledger.waiting(f"task-{number}") for number in range(2, 5)]
    ledger.clock.advance(TIMING.job_timeout)
    assert [claimed.row.ref for claimed in ledger.jobs.claim(8, complete=True)] == [complete]
    assert {claimed.row.ref for claimed in ledger.jobs.claim(8, complete=False)} == set(overdue)
