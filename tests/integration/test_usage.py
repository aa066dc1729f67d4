"""What became of each model's jobs, and how many of them stand: on both databases."""

from datetime import UTC, datetime, time
from zoneinfo import ZoneInfo

import pytest
from ledgers import BASE_URL, Books, failed

from receiver.ledger.queries.over_time import TimeQueries
from receiver.ledger.queries.spending import SpendingQueries
from receiver.ledger.queries.totals import Usage
from receiver.model import JobState, Reason, Submission

pytestmark = pytest.mark.both_databases


def submit(books: Books, model: str) -> str:
    return books.jobs.submit(Submission("a fox", model, {}), BASE_URL).ref


def test_every_job_is_counted_once_by_what_became_of_it(books: Books) -> None:
    assert books.totals.usage() == []
    for number, reason in enumerate(("error", "input_moderation", "output_moderation")):
        books.jobs.record_accepted(ref := submit(books, "a"), f"failed-{number}")
        books.deliver(ref, failed(reason, provider_id=f"failed-{number}"))
    books.jobs.record_refused(submit(books, "a"), "no credits")
    books.jobs.expire(submit(books, "b"), "no word")
    submit(books, "b")
    books.archived(provider_id="archived")
    bad = books.archiving(provider_id="bad")
    (claimed,) = books.assets.claim(1)
    books.assets.give_up(claimed, claimed.row.state.FAILED, "no picture")
    (job,) = [claimed for claimed in books.jobs.claim(10) if claimed.row.ref == bad]
    books.jobs.conclude(job, JobState.FAILED, reason=Reason.BAD_ASSET)
    assert books.totals.usage() == [
        Usage(
            "grsai",
            "a",
            submitted=4,
            archived=0,
            refunded=3,
            refused=1,
            failed=0,
            expired=0,
            in_flight=0,
        ),
        Usage(
            "grsai",
            "b",
            submitted=2,
            archived=0,
            refunded=0,
            refused=0,
            failed=0,
            expired=1,
            in_flight=1,
        ),
        Usage(
            "grsai",
            "gpt-image-1.5",
            submitted=2,
            archived=1,
            refunded=0,
            refused=0,
            failed=1,
            expired=0,
            in_flight=0,
        ),
    ]


def test_many_jobs_are_asked_for_at_once_and_unknown_ones_left_out(books: Books) -> None:
    refs = [submit(books, "a") for _ in range(3)]
    books.jobs.record_accepted(refs[1], "task-1")
    books.jobs.record_refused(refs[2], "no")
    assert books.queries.states([*refs, "01JZ2Q7V3N0123456789ABCDEF"]) == {
        refs[0]: (JobState.SUBMITTING, None),
        refs[1]: (JobState.WAITING, None),
        refs[2]: (JobState.FAILED, Reason.REFUSED),
    }
    assert books.queries.states([]) == {}


def test_spending_is_by_day_and_model_without_what_the_provider_returns(books: Books) -> None:
    began = books.clock()
    books.failed("returned")
    books.archived(2, "paid")
    books.clock.now = began + 86400
    submit(books, "other")
    today, yesterday = SpendingQueries(books.database).days(books.clock(), 2)
    assert (today.model, today.jobs, today.free, today.archived, today.pictures) == (
        *("other", 1, 0, 0),
        1,
    )
    assert (yesterday.jobs, yesterday.free, yesterday.archived) == (2, 1, 1)
    assert (today.day - yesterday.day).days == 1


def test_figures_over_time_are_in_the_part_in_which_the_job_was_submitted(books: Books) -> None:
    books.failed("one")
    books.archived(1, "two")
    books.clock.advance(3600)
    books.waiting("three")
    *before, last, now = TimeQueries(books.database).parts(books.clock(), 3600, 4)
    assert not any(part.states for part in before)
    assert (last.states, sum(last.reasons.values())) == ({"failed": 1, "archived": 1}, 1)
    assert now.states == {"waiting": 1}
    assert last.to_callback.half is not None
    assert last.to_archive.most is not None
    assert (now.to_callback.half, now.to_archive.half) == (None, None)
    assert now.start <= books.clock() < now.start + 3600


# Submitted at the first hour (UTC); the days and parts that these jobs fall into.
ZONES = {
    "UTC": (["2025-03-29", "2025-03-30"], [86400.0] * 2),
    "Asia/Kolkata": (["2025-03-29", "2025-03-30"], [86400.0] * 2),
    "America/New_York": (["2025-03-28", "2025-03-29"], [86400.0] * 2),
    "Europe/Berlin": (["2025-03-29", "2025-03-30"], [86400.0, 82800.0]),
}


@pytest.mark.parametrize("name", ZONES)
def test_costs_and_charts_have_the_days_of_a_time_zone(books: Books, name: str) -> None:
    zone, (days, lengths) = ZoneInfo(name), ZONES[name]
    books.clock.now = datetime(2025, 3, 29, 3, tzinfo=UTC).timestamp()
    submit(books, "a")
    books.clock.advance(86400)
    submit(books, "a")
    found = SpendingQueries(books.database).days(books.clock(), 3, zone)
    assert [(one.day.isoformat(), one.jobs) for one in reversed(found)] == [
        (day, 1) for day in days
    ]
    books.clock.advance(86400)
    _, first, second, last = TimeQueries(books.database).parts(books.clock(), 86400, 4, zone)
    assert [part.states.total() for part in (first, second, last)] == [1, 1, 0]
    assert [second.start - first.start, last.start - second.start] == lengths
    assert datetime.fromtimestamp(first.start, zone).time() == time()
