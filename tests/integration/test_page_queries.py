"""Queries of the other pages on both databases: pictures, what was set aside, comparing models."""

import pytest
from ledgers import NOW, Books, failed, stored, succeeded, urls

from receiver.ledger.queries.job_list import Page, Wanted
from receiver.ledger.queries.model_stats import ModelQueries, quantile
from receiver.model import AssetState, Source

pytestmark = pytest.mark.both_databases


def refs(page: Page) -> list[str]:
    return [job.ref for job in page.jobs]


# Pictures.


def test_only_jobs_with_pictures_are_listed_and_their_neighbours_found(books: Books) -> None:
    refs_made = []
    for number in range(3):
        refs_made.append(books.archived(2, f"task-{number}"))
        books.clock.advance(1)
        books.failed(f"task-failed-{number}")
        books.clock.advance(1)
    first, second, third = refs_made
    pictures = Wanted(pictures=True)
    assert refs(books.job_list.page(pictures)) == [third, second, first]
    assert refs(books.job_list.page(pictures, second)) == [first]
    newer = books.job_list.newer(pictures, second)
    assert newer is not None
    assert newer.ref == third
    assert books.job_list.newer(pictures, third) is None
    assert books.pictures.newest() < books.events.newest()
    assert [event["type"] for event in books.events.of_job(third)] == [
        "asset.archived",
        "asset.archived",
        "job.archived",
    ]


def test_there_is_nothing_where_nothing_arrived(books: Books) -> None:
    assert books.pictures.newest() == 0
    assert books.pictures.endangered(NOW) == []
    assert books.set_aside.count() == 0
    assert books.events.newest() == 0
    assert books.job_list.models() == []


def test_a_picture_is_in_danger_when_its_url_dies_soon_or_its_job_was_announced(
    books: Books,
) -> None:
    late = books.archiving(2, "task-1")
    books.clock.advance(600)
    announced = books.archiving(1, "task-2")
    assert books.pictures.endangered(NOW + 7000) == []
    assert [
        (found.job.ref, found.asset.idx) for found in books.pictures.endangered(NOW + 7200)
    ] == [
        (late, 0),
        (late, 1),
    ]
    books.execute("UPDATE jobs SET due_at = 0 WHERE ref = :ref", ref=announced)
    (claimed,) = [claimed for claimed in books.jobs.claim(9) if claimed.row.ref == announced]
    books.jobs.announce_risk(claimed, "late")
    assert [found.job.ref for found in books.pictures.endangered(NOW)] == [announced]
    assert [found.job.ref for found in books.pictures.endangered(NOW + 7200)] == [
        late,
        late,
        announced,
    ]
    books.deliver(late, succeeded(*urls(2)), Source.POLL)
    for claimed_asset in books.assets.claim(9):
        books.assets.finish(claimed_asset, stored(claimed_asset))
    assert books.pictures.endangered(NOW + 99_999) == [], "what is safe is in no danger"


# What was set aside.


def test_what_broke_the_worker_or_could_not_be_read_is_set_aside(books: Books) -> None:
    crashed, lost, well = (
        books.failed("task-1"),
        books.archiving(1, "task-2"),
        books.failed("task-3"),
    )
    books.execute(
        "UPDATE jobs SET crashes = 5, message = 'no manifest, set aside: it broke' "
        "WHERE ref = :ref",
        ref=crashed,
    )
    (claimed,) = books.assets.claim(1)
    books.assets.give_up(claimed, AssetState.FAILED, "set aside: it broke")
    books.execute("UPDATE assets SET crashes = 5 WHERE ref = :ref", ref=lost)
    books.execute("UPDATE jobs SET crashes = 2 WHERE ref = :ref", ref=well)
    with pytest.raises(Exception, match="JSON"):
        books.deliver(well, b"{")
    assert set(refs(books.set_aside.jobs())) == {crashed, lost}
    first = books.set_aside.jobs(limit=1)
    assert refs(books.set_aside.jobs(after=first.next or "", limit=1)) == [min(crashed, lost)]
    (odd,) = books.set_aside.deliveries()
    assert (odd.ref, odd.verdict, odd.size) == (well, "unreadable", 1)
    assert books.set_aside.deliveries(before=odd.id) == []
    assert (books.set_aside.count(), books.set_aside.count(most=2)) == (3, 2)


def test_a_body_is_read_in_parts(books: Books) -> None:
    body = failed(message="x" * 100)
    books.deliver(books.waiting(), body)
    assert books.queries.body(1, 0, 10) + books.queries.body(1, 10, 10_000) == body
    assert books.queries.body(99, 0, 10) == b""


# Comparing.


def test_models_are_compared_by_what_became_of_their_jobs(books: Books) -> None:
    for number in range(2):
        ref = books.waiting(f"ok-{number}")
        books.clock.advance(10)
        books.deliver(ref, succeeded(provider_id=f"ok-{number}"))
        books.deliver(ref, succeeded(provider_id=f"ok-{number}"))
        (claimed,) = books.assets.claim(1)
        books.clock.advance(5)
        books.assets.finish(claimed, stored(claimed))
        books.conclude(ref)
    books.deliver(books.waiting("mod"), failed("output_moderation", provider_id="mod"))
    books.failed("broken")
    books.expired("gone")
    books.submitting(model="nano-banana")
    found = ModelQueries(books.database).since(NOW)
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
    assert ModelQueries(books.database).since(NOW + 999).models == []


def test_a_sample_that_left_jobs_out_says_so(books: Books) -> None:
    for prompt in "abc":
        books.submitting(prompt)
        books.clock.advance(1)
    found = ModelQueries(books.database, sample=2).since(NOW)
    assert (found.jobs, found.complete) == (2, False)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, None), ([3.0], 0.95, 3.0), ([1.0, 2.0, 3.0, 4.0], 0.5, 3.0)],
)
def test_a_quantile_is_one_of_the_values(
    values: list[float], share: float, expected: float | None
) -> None:
    assert quantile(values, share) == expected
