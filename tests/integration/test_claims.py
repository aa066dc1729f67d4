"""Claims on both databases: nearest deadline first, one owner, and lost leases change nothing."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from ledgers import BASE_URL, NOW, TIMING, Books, opened, stored, succeeded, urls
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


def claim_asset(books: Books) -> Claimed[Asset]:
    (claimed,) = books.assets.claim(1)
    return claimed


def claim_job(books: Books) -> Claimed[Job]:
    (claimed,) = books.jobs.claim(1)
    return claimed


# Which row is claimed.


def test_of_all_that_is_due_the_url_that_dies_first_is_claimed_first(books: Books) -> None:
    refs = []
    for number in range(4):
        refs.append(books.archiving(1, f"task-{number}"))
        books.clock.advance(60)
    books.deliver(
        refs[0], succeeded("https://files.test/fresh", provider_id="task-0"), Source.POLL
    )  # now the last to die
    for held in books.assets.claim(2):
        books.assets.retry(held, books.clock(), "again")  # due last, but not dying last
    assert [claim_asset(books).row.ref for _ in refs] == [refs[1], refs[2], refs[3], refs[0]]


def test_several_claims_are_handed_out_in_the_order_of_their_deadlines(books: Books) -> None:
    refs = [books.archiving(1, f"task-{number}") for number in range(3)]
    for wait, number in ((10, 1), (20, 0), (30, 2)):
        books.clock.now = NOW + wait
        books.deliver(
            refs[number],
            succeeded(f"https://files.test/{wait}", provider_id=f"task-{number}"),
            Source.POLL,
        )
    assert [claimed.row.ref for claimed in books.assets.claim(10)] == [
        refs[1],
        refs[0],
        refs[2],
    ]


def test_of_all_jobs_the_longest_due_is_claimed_first(books: Books) -> None:
    refs = []
    for number in range(3):
        refs.append(books.waiting(f"task-{number}"))
        books.clock.advance(10)
    books.jobs.release(_claim_when_due(books, refs[0]), NOW + 125)
    books.clock.now = NOW + 200
    assert [claim_job(books).row.ref for _ in refs] == [refs[0], refs[1], refs[2]]


def _claim_when_due(books: Books, ref: str) -> Claimed[Job]:
    books.clock.now = NOW + 120
    claimed = claim_job(books)
    assert claimed.row.ref == ref
    return claimed


def test_nothing_is_claimed_before_it_is_due(books: Books) -> None:
    books.waiting()
    books.clock.now = NOW + 119.9
    assert books.jobs.claim(10) == []
    books.clock.now = NOW + 120
    assert len(books.jobs.claim(10)) == 1


def test_a_claimed_row_cannot_be_claimed_again_until_its_lease_ends(books: Books) -> None:
    books.archiving()
    first = claim_asset(books)
    assert (first.row.claim, first.row.attempts, first.row.due_at) == (first.token, 1, NOW + LEASE)
    books.clock.advance(LEASE - 0.1)
    assert books.assets.claim(10) == []
    books.clock.advance(0.1)
    second = claim_asset(books)
    assert (second.row.attempts, second.row.idx) == (2, first.row.idx)
    assert second.token != first.token


@pytest.mark.parametrize("switched_off", PLANS)
def test_no_plan_of_the_database_claims_more_than_it_was_asked_for(
    postgres_url: str, switched_off: list[str]
) -> None:
    options = "%20".join(f"-c%20enable_{kind}%3Doff" for kind in switched_off)
    with opened(f"{postgres_url}&options={options}") as books:
        books.archiving(9)
        for number in range(6):
            books.waiting(f"task-{number + 2}")
        books.clock.advance(120)
        assert [len(books.assets.claim(4)) for _ in range(4)] == [4, 4, 1, 0]
        assert [len(books.jobs.claim(4)) for _ in range(3)] == [4, 2, 0]


def test_racing_claimers_never_get_the_same_row_and_leave_none(books: Books) -> None:
    refs = [books.archiving(5, f"task-{number}") for number in range(12)]

    def claim_until_nothing_is_left() -> list[tuple[str, int]]:
        mine: list[tuple[str, int]] = []
        while claims := books.assets.claim(3):
            mine += [(claimed.row.ref, claimed.row.idx) for claimed in claims]
        return mine

    claimed = Counter(
        row for mine in side_by_side([claim_until_nothing_is_left] * 8) for row in mine
    )
    assert claimed == Counter({(ref, idx): 1 for ref in refs for idx in range(5)})


# A lost lease.


def lose(books: Books, claimed: Claimed[Any]) -> None:
    """Let the lease end and another worker take the row."""
    books.clock.advance(LEASE)
    successors = books.assets.claim(1) if isinstance(claimed.row, Asset) else books.jobs.claim(1)
    assert [successor.row.ref for successor in successors] == [claimed.row.ref]


@pytest.mark.parametrize(
    "happening",
    [
        lambda books, claimed: books.assets.finish(claimed, stored(claimed)),
        lambda books, claimed: books.assets.give_up(claimed, AssetState.FAILED, "bad"),
        lambda books, claimed: books.assets.retry(claimed, NOW + 1, "again"),
        lambda books, claimed: books.assets.retry(
            claimed, NOW + 1, "again", counted=False, refresh_url=True
        ),
    ],
    ids=["finish", "give up", "retry", "ask again"],
)
def test_a_worker_that_lost_the_lease_of_an_asset_changes_nothing(
    books: Books, happening: Callable[[Books, Claimed[Asset]], None]
) -> None:
    books.archiving()
    claimed = claim_asset(books)
    lose(books, claimed)
    before = books.everything()
    with pytest.raises(ClaimLostError):
        happening(books, claimed)
    assert books.everything() == before


@pytest.mark.parametrize(
    "happening",
    [
        lambda books, claimed: books.jobs.conclude(claimed, JobState.ARCHIVED),
        lambda books, claimed: books.jobs.release(claimed, NOW + 1),
        lambda books, claimed: books.jobs.announce_risk(claimed, "hurry"),
    ],
    ids=["conclude", "look again", "announce the risk"],
)
def test_a_worker_that_lost_the_lease_of_a_job_changes_nothing(
    books: Books, happening: Callable[[Books, Claimed[Job]], object]
) -> None:
    books.archiving()
    for asset in books.assets.claim(1):
        books.assets.finish(asset, stored(asset))
    claimed = claim_job(books)
    lose(books, claimed)
    before = books.everything()
    with pytest.raises(ClaimLostError):
        happening(books, claimed)
    assert books.everything() == before


@pytest.mark.parametrize("happening", ["renew", "release"])
def test_a_lost_lease_among_several_is_skipped(books: Books, happening: str) -> None:
    books.archiving(2)
    lost, kept = books.assets.claim(2)
    books.assets.finish(lost, stored(lost))
    before = books.assets_of(lost.row.ref)[0]
    books.clock.advance(30)
    getattr(books.claims, happening)([lost, kept])
    first, second = books.assets_of(lost.row.ref)
    assert first == before
    assert second.due_at == {"renew": NOW + 30 + LEASE, "release": NOW + 30}[happening]


def test_a_hint_too_has_one_owner_at_a_time(books: Books) -> None:
    books.hints.add("task-1")
    (first,) = books.hints.claim(10)
    assert books.hints.claim(10) == []
    books.clock.advance(LEASE)
    (second,) = books.hints.claim(10)
    with pytest.raises(ClaimLostError):
        books.hints.release(first, NOW)
    books.hints.adopt(new_ref(NOW), second.row, BASE_URL)
    with pytest.raises(ClaimLostError):
        books.hints.release(second, NOW)


# Giving back.


def test_a_renewed_lease_ends_later(books: Books) -> None:
    ref = books.archiving()
    claimed = claim_asset(books)
    books.clock.advance(LEASE - 1)
    books.claims.renew([claimed])
    books.clock.advance(LEASE - 1)
    assert books.assets.claim(10) == []
    books.assets.finish(claimed, stored(claimed))
    assert books.pending(ref) == []


def test_what_is_handed_back_is_due_at_once_and_counts_as_an_attempt(books: Books) -> None:
    books.archiving()
    books.waiting("task-2")
    books.hints.add("task-3")
    books.clock.advance(120)
    held: list[Claimed[Any]] = [
        *books.assets.claim(1),
        *books.jobs.claim(1),
        *books.hints.claim(1),
    ]
    books.claims.release(held)
    again: list[Claimed[Any]] = [
        *books.assets.claim(1),
        *books.jobs.claim(1),
        *books.hints.claim(1),
    ]
    assert [claimed.row.attempts for claimed in again] == [
        2,
        2,
        2,
    ]  # what was begun may have put an object


def test_a_worker_that_starts_alone_takes_over_every_lease_at_once(books: Books) -> None:
    books.archiving(2)
    books.waiting("task-2")
    books.hints.add("task-3")
    books.clock.advance(120)
    dead: list[Claimed[Any]] = [
        *books.assets.claim(1),
        *books.jobs.claim(1),
        *books.hints.claim(1),
    ]
    assert books.claims.take_over() == 3
    alive: list[Claimed[Any]] = [
        *books.assets.claim(5),
        *books.jobs.claim(5),
        *books.hints.claim(5),
    ]
    assert sorted(claimed.row.attempts for claimed in alive) == [1, 2, 2, 2]
    for claimed in dead:
        with pytest.raises(ClaimLostError):
            books.database.write(partial(update_claimed, claimed=claimed, claim=None))
    assert books.claims.take_over() == 4


@pytest.mark.parametrize(("counted", "attempts"), [(True, 2), (False, 1)])
def test_an_attempt_that_says_nothing_about_the_asset_does_not_count(
    books: Books,
    counted: bool,  # noqa: FBT001 - a row of the table
    attempts: int,
) -> None:
    ref = books.archiving()
    books.assets.retry(claim_asset(books), NOW + 15, "the archive is away", counted=counted)
    (asset,) = books.assets_of(ref)
    assert (asset.due_at, asset.claim, asset.error) == (NOW + 15, None, "the archive is away")
    books.clock.advance(15)
    assert claim_asset(books).row.attempts == attempts


def test_a_dead_url_has_its_job_asked_for_a_fresh_one_but_not_while_it_is_being_asked(
    books: Books,
) -> None:
    ref = books.archiving(2)
    first, second = books.assets.claim(2)
    books.assets.retry(first, NOW + 4, "404", refresh_url=True)
    assert books.job(ref).due_at == NOW
    asking = claim_job(books)
    books.assets.retry(second, NOW + 4, "404", refresh_url=True)
    assert (books.job(ref).claim, books.job(ref).due_at) == (asking.token, NOW + LEASE)


# The last asset.


@pytest.mark.parametrize("asked_about", [False, True])
def test_the_last_asset_makes_its_job_due_even_while_it_is_leased(
    books: Books,
    asked_about: bool,  # noqa: FBT001 - a row of the table
) -> None:
    ref = books.archiving(2)
    first, last = books.assets.claim(2)
    books.assets.finish(first, stored(first))
    assert (books.job(ref).due_at or 0) > NOW
    if asked_about:
        books.execute("UPDATE jobs SET due_at = 0")
        looking = claim_job(books)
    books.assets.give_up(last, AssetState.EXPIRED, "gone")
    assert (books.job(ref).due_at, books.job(ref).claim) == (NOW, None)
    if asked_about:
        with pytest.raises(ClaimLostError):
            books.jobs.release(looking, NOW + 1000)


def test_two_assets_that_finish_at_the_same_instant_always_leave_their_job_due(
    books: Books,
) -> None:
    refs = [books.archiving(2, f"task-{number}") for number in range(15)]
    by_job: dict[str, list[Claimed[Asset]]] = {ref: [] for ref in refs}
    for claimed in books.assets.claim(100):
        by_job[claimed.row.ref].append(claimed)
    for pair in by_job.values():
        side_by_side([partial(books.assets.finish, claimed, stored(claimed)) for claimed in pair])
    assert {books.job(ref).due_at for ref in refs} == {NOW}
    assert {claimed.row.ref for claimed in books.jobs.claim(100)} == set(refs)


def test_workers_that_renew_finish_and_hear_fresh_urls_at_once_do_not_stop_each_other(
    books: Books,
) -> None:
    refs = [books.archiving(4, f"task-{number}") for number in range(4)]
    held = books.assets.claim(16)
    books.clock.advance(6000)
    asked = books.jobs.claim(4)

    def renew_again_and_again() -> None:
        for _ in range(15):
            books.claims.renew([*held[::-1], *asked])

    def hear_again_and_again(number: int) -> None:
        for version in range(15):
            fresh = succeeded(*urls(4, f"version-{version}"), provider_id=f"task-{number}")
            books.deliver(refs[number], fresh, Source.POLL)

    works: list[Callable[[], None]] = [partial(hear_again_and_again, number) for number in range(4)]
    side_by_side([renew_again_and_again, *works])
    assert books.totals.audit().ok


def test_complete_jobs_do_not_queue_up_behind_those_to_be_polled(books: Books) -> None:
    complete = books.archiving(1)
    (asset,) = books.assets.claim(1)
    books.assets.finish(asset, stored(asset))
    overdue = [books.waiting(f"task-{number}") for number in range(2, 5)]
    books.clock.advance(TIMING.job_timeout)
    assert [claimed.row.ref for claimed in books.jobs.claim(8, complete=True)] == [complete]
    assert {claimed.row.ref for claimed in books.jobs.claim(8, complete=False)} == set(overdue)
