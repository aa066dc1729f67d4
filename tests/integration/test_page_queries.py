"""Queries of the other pages on both databases: pictures, what was set aside, comparing models."""

import pytest
from ledgers import NOW, LedgerHarness, failed, stored, succeeded, urls

from receiver.ledger.queries.job_list import Page, Wanted
from receiver.ledger.queries.model_stats import ModelQueries, quantile
from receiver.model import AssetState, Source

pytestmark = pytest.mark.both_databases


def refs(page: Page) -> list[str]:
    return [job.ref for job in page.jobs]


# Pictures.


def test_only_jobs_with_pictures_are_listed_and_their_neighbours_found(
    ledger: LedgerHarness,
) -> None:
    refs_made = []
    for number in range(3):
        refs_made.append(ledger.archived(2, f"task-{number}"))
        ledger.clock.advance(1)
        ledger.failed(f"task-failed-{number}")
        ledger.clock.advance(1)
    first, second, third = refs_made
    pictures = Wanted(pictures=True)
    assert refs(ledger.job_list.page(pictures)) == [third, second, first]
    assert refs(ledger.job_list.page(pictures, second)) == [first]
    newer = ledger.job_list.newer(pictures, second)
    assert newer is not None
    assert newer.ref == third
    assert ledger.job_list.newer(pictures, third) is None
    assert ledger.pictures.newest() < ledger.events.newest()
    assert [event["type"] for event in ledger.events.of_job(third)] == [
        "asset.archived",
        "asset.archived",
        "job.archived",
    ]


def test_there_is_nothing_where_nothing_arrived(ledger: LedgerHarness) -> None:
    assert ledger.pictures.newest() == 0
    assert ledger.pictures.endangered(NOW) == []
    assert ledger.set_aside.count() == 0
    assert ledger.events.newest() == 0
    assert ledger.job_list.models() == []


def test_a_picture_is_in_danger_when_its_url_dies_soon_or_its_job_was_announced(
    ledger: LedgerHarness,
) -> None:
    late = ledger.archiving(2, "task-1")
    ledger.clock.advance(600)
    announced = ledger.archiving(1, "task-2")
    assert ledger.pictures.endangered(NOW + 7000) == []
    assert [
        (found.job.ref, found.asset.idx) for found in ledger.pictures.endangered(NOW + 7200)
    ] == [
        (late, 0),
        (late, 1),
    ]
    ledger.execute("UPDATE jobs SET due_at = 0 WHERE ref = :ref", ref=announced)
    (claimed,) = [claimed for claimed in ledger.jobs.claim(9) if claimed.row.ref == announced]
    ledger.jobs.announce_risk(claimed, "late")
    assert [found.job.ref for found in ledger.pictures.endangered(NOW)] == [announced]
    assert [found.job.ref for found in ledger.pictures.endangered(NOW + 7200)] == [
        late,
        late,
        announced,
    ]
    ledger.deliver(late, succeeded(*urls(2)), Source.POLL)
    for claimed_asset in ledger.assets.claim(9):
        ledger.assets.finish(claimed_asset, stored(claimed_asset))
    assert ledger.pictures.endangered(NOW + 99_999) == [], "what is safe is in no danger"


# What was set aside.


def test_what_broke_the_worker_or_could_not_be_read_is_set_aside(ledger: LedgerHarness) -> None:
    crashed, lost, well = (
        ledger.failed("task-1"),
        ledger.archiving(1, "task-2"),
        ledger.failed("task-3"),
    )
    ledger.execute(
        "UPDATE jobs SET crashes = 5, message = 'no manifest, set aside: it broke' "
        "WHERE ref = :ref",
        ref=crashed,
    )
    (claimed,) = ledger.assets.claim(1)
    ledger.assets.give_up(claimed, AssetState.FAILED, "set aside: it broke")
    ledger.execute("UPDATE assets SET crashes = 5 WHERE ref = :ref", ref=lost)
    ledger.execute("UPDATE jobs SET crashes = 2 WHERE ref = :ref", ref=well)
    with pytest.raises(Exception, match="JSON"):
        ledger.deliver(well, b"{")
    assert set(refs(ledger.set_aside.jobs())) == {crashed, lost}
    first = ledger.set_aside.jobs(limit=1)
    assert refs(ledger.set_aside.jobs(after=first.next or "", limit=1)) == [min(crashed, lost)]
    (odd,) = ledger.set_aside.deliveries()
    assert (odd.ref, odd.verdict, odd.size) == (well, "unreadable", 1)
    assert ledger.set_aside.deliveries(before=odd.id) == []
    assert (ledger.set_aside.count(), ledger.set_aside.count(most=2)) == (3, 2)


def test_a_body_is_read_in_parts(ledger: LedgerHarness) -> None:
    body = failed(message="x" * 100)
    ledger.deliver(ledger.waiting(), body)
    assert ledger.queries.body(1, 0, 10) + ledger.queries.body(1, 10, 10_000) == body
    assert ledger.queries.body(99, 0, 10) == b""


# Comparing.


def test_models_are_compared_by_what_became_of_their_jobs(ledger: LedgerHarness) -> None:
    for number in range(2):
        ref = ledger.waiting(f"ok-{number}")
        ledger.clock.advance(10)
        ledger.deliver(ref, succeeded(provider_id=f"ok-{number}"))
        ledger.deliver(ref, succeeded(provider_id=f"ok-{number}"))
        (claimed,) = ledger.assets.claim(1)
        ledger.clock.advance(5)
        ledger.assets.finish(claimed, stored(claimed))
        ledger.conclude(ref)
    ledger.deliver(ledger.waiting("mod"), failed("output_moderation", provider_id="mod"))
    ledger.failed("broken")
    ledger.expired("gone")
    ledger.submitting(model="nano-banana")
    found = ModelQueries(ledger.database).since(NOW)
    assert (found.jobs, found.complete, [model.model for model in found.models]) == (
        6,
        True,
        ["gpt-image-1.5", "nano-banana"],
    )
    result = found.models[0]
    assert (result.jobs, result.archived, result.moderated, result.failed, result.expired) == (
        5,
        2,
        1,
        1,
        1,
    )
    assert (result.deliveries, result.duplicates, result.ended) == (6, 2, 5)
    assert sorted(result.to_callback) == [0, 0, 10, 10]
    assert (result.to_archive, result.life_left, result.lifetime) == ([5, 5], [7195, 7195], 7200)
    assert found.models[1].in_flight == 1
    assert ModelQueries(ledger.database).since(NOW + 999).models == []


def test_a_sample_that_left_jobs_out_says_so(ledger: LedgerHarness) -> None:
    for prompt in "abc":
        ledger.submitting(prompt)
        ledger.clock.advance(1)
    found = ModelQueries(ledger.database, sample=2).since(NOW)
    assert (found.jobs, found.complete) == (2, False)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, None), ([3.0], 0.95, 3.0), ([1.0, 2.0, 3.0, 4.0], 0.5, 3.0)],
)
def test_a_quantile_is_one_of_the_values(
    values: list[float], share: float, expected: float | None
) -> None:
    assert quantile(values, share) == expected
