"""What became of each model's jobs, and how many of them stand: on both databases."""

from datetime import UTC, datetime, time
from zoneinfo import ZoneInfo

import pytest
from ledgers import BASE_URL, LedgerHarness, failed

from receiver.ledger.queries.over_time import TimeQueries
from receiver.ledger.queries.spending import SpendingQueries
from receiver.ledger.queries.totals import Usage
from receiver.model import JobState, Reason, Submission

pytestmark = pytest.mark.both_databases


def submit(ledger: LedgerHarness, model: str) -> str:
    return ledger.jobs.submit(Submission("a fox", model, {}), BASE_URL).ref


def test_every_job_is_counted_once_by_what_became_of_it(ledger: LedgerHarness) -> None:
    assert ledger.totals.usage() == []
    for number, reason in enumerate(("error", "input_moderation", "output_moderation")):
        ledger.jobs.record_accepted(ref := submit(ledger, "a"), f"failed-{number}")
        ledger.deliver(ref, failed(reason, provider_id=f"failed-{number}"))
    ledger.jobs.record_refused(submit(ledger, "a"), "no credits")
    ledger.jobs.expire(submit(ledger, "b"), "no word")
    submit(ledger, "b")
    ledger.archived(provider_id="archived")
    bad = ledger.archiving(provider_id="bad")
    (claimed,) = ledger.assets.claim(1)
    ledger.assets.give_up(claimed, claimed.row.state.FAILED, "no picture")
    (job,) = [claimed for claimed in ledger.jobs.claim(10) if claimed.row.ref == bad]
    ledger.jobs.conclude(job, JobState.FAILED, reason=Reason.BAD_ASSET)
    assert ledger.totals.usage() == [
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


def test_many_jobs_are_asked_for_at_once_and_unknown_ones_left_out(ledger: LedgerHarness) -> None:
    refs = [submit(ledger, "a") for _ in range(3)]
    ledger.jobs.record_accepted(refs[1], "task-1")
    ledger.jobs.record_refused(refs[2], "no")
    assert ledger.queries.states([*refs, "01JZ2Q7V3N0123456789ABCDEF"]) == {
        refs[0]: (JobState.SUBMITTING, None),
        refs[1]: (JobState.WAITING, None),
        refs[2]: (JobState.FAILED, Reason.REFUSED),
    }
    assert ledger.queries.states([]) == {}


def test_spending_is_by_day_and_model_without_what_the_provider_returns(
    ledger: LedgerHarness,
) -> None:
    began = ledger.clock()
    ledger.failed("returned")
    ledger.archived(2, "paid")
    ledger.clock.now = began + 86400
    submit(ledger, "other")
    today, yesterday = SpendingQueries(ledger.database).days(ledger.clock(), 2)
    assert (today.model, today.jobs, today.free, today.archived, today.pictures) == (
        *("other", 1, 0, 0),
        1,
    )
    assert (yesterday.jobs, yesterday.free, yesterday.archived) == (2, 1, 1)
    assert (today.day - yesterday.day).days == 1


def test_figures_over_time_are_in_the_part_in_which_the_job_was_submitted(
    ledger: LedgerHarness,
) -> None:
    ledger.failed("one")
    ledger.archived(1, "two")
    ledger.clock.advance(3600)
    ledger.waiting("three")
    *before, last, now = TimeQueries(ledger.database).parts(ledger.clock(), 3600, 4)
    assert not any(part.states for part in before)
    assert (last.states, sum(last.reasons.values())) == ({"failed": 1, "archived": 1}, 1)
    assert now.states == {"waiting": 1}
    assert last.to_callback.half is not None
    assert last.to_archive.most is not None
    assert (now.to_callback.half, now.to_archive.half) == (None, None)
    assert now.start <= ledger.clock() < now.start + 3600


# Submitted at the first hour (UTC); the days and parts that these jobs fall into.
ZONES = {
    "UTC": (["2025-03-29", "2025-03-30"], [86400.0] * 2),
    "Asia/Kolkata": (["2025-03-29", "2025-03-30"], [86400.0] * 2),
    "America/New_York": (["2025-03-28", "2025-03-29"], [86400.0] * 2),
    "Europe/Berlin": (["2025-03-29", "2025-03-30"], [86400.0, 82800.0]),
}


@pytest.mark.parametrize("name", ZONES)
def test_costs_and_charts_have_the_days_of_a_time_zone(ledger: LedgerHarness, name: str) -> None:
    zone, (days, lengths) = ZoneInfo(name), ZONES[name]
    ledger.clock.now = datetime(2025, 3, 29, 3, tzinfo=UTC).timestamp()
    submit(ledger, "a")
    ledger.clock.advance(86400)
    submit(ledger, "a")
    found = SpendingQueries(ledger.database).days(ledger.clock(), 3, zone)
    assert [(one.day.isoformat(), one.jobs) for one in reversed(found)] == [
        (day, 1) for day in days
    ]
    ledger.clock.advance(86400)
    _, first, second, last = TimeQueries(ledger.database).parts(ledger.clock(), 86400, 4, zone)
    assert [part.states.total() for part in (first, second, last)] == [1, 1, 0]
    assert [second.start - first.start, last.start - second.start] == lengths
    assert datetime.fromtimestamp(first.start, zone).time() == time()
