"""Pruning: a job is removed completely or not at all, no event is lost, every invariant holds."""

import json
from pathlib import Path

import pytest
from commands import invoke
from ledgers import LedgerHarness, failed, opened, stored, succeeded, urls

from receiver.errors import ReceiverError
from receiver.ledger.claims import Claimed
from receiver.ledger.outbox import Outbox
from receiver.ledger.rows import EventDelivery
from receiver.maintenance import prune
from receiver.model import AssetState, EventType, JobState, Mode, Provider, Source

pytestmark = pytest.mark.both_databases

DAY = 86400.0


def one_of_each(ledger: LedgerHarness) -> dict[str, str]:
    """Create a job in each state, and one that was retried; return their refs by name."""
    refs = {
        "archived": ledger.archived(2, "task-1"),
        "failed": ledger.failed("task-2"),
        "expired": ledger.expired("task-3"),
        "archiving": ledger.archiving(1, "task-4"),
        "waiting": ledger.waiting("task-5"),
        "submitting": ledger.submitting(),
        "retried": ledger.failed("task-6"),
    }
    ledger.operator.retry(refs["retried"])
    return refs


def left(ledger: LedgerHarness) -> set[str]:
    """Return the refs of the jobs in the ledger."""
    return {job.ref for job in ledger.queries.jobs(limit=1000)}


def test_jobs_that_ended_before_go_and_all_others_stay(ledger: LedgerHarness) -> None:
    refs = one_of_each(ledger)
    ledger.clock.advance(90 * DAY)
    recent = ledger.failed("task-7")
    pruner = ledger.pruner()
    assert pruner.jobs(ledger.clock() - 91 * DAY) == (0, {}, "")
    assert pruner.jobs(ledger.clock() - 30 * DAY) == (
        3,
        {},
        max(refs[name] for name in ("archived", "failed", "expired")),
    )
    assert pruner.jobs(ledger.clock() - 30 * DAY) == (0, {}, "")
    assert left(ledger) == {
        recent,
        *(refs[name] for name in ("archiving", "waiting", "submitting", "retried")),
    }
    assert ledger.totals.audit().ok


def test_nothing_of_a_pruned_job_is_left_behind(ledger: LedgerHarness) -> None:
    ref = tried_twice(ledger, "task-1")
    newest(ledger)
    assert ledger.pruner().jobs(ledger.clock() + 1)[:2] == (1, {})
    assert [table for table, rows in ledger.everything().items() if ref in str(rows)] == []


def tried_twice(ledger: LedgerHarness, provider_id: str) -> str:
    """Create a job whose picture was archived at the second attempt; return its ref."""
    ref = ledger.archiving(1, provider_id)
    (claimed,) = ledger.assets.claim(1)
    ledger.assets.retry(claimed, ledger.clock(), "not there yet")
    (claimed,) = ledger.assets.claim(1)
    ledger.assets.finish(claimed, stored(claimed))
    ledger.conclude(ref)
    return ref


def newest(ledger: LedgerHarness) -> str:
    """Create an unfinished job with the newest event, delivery and attempt; return its ref."""
    ref = ledger.archiving(2, "task-newest")
    first, second = ledger.assets.claim(2)
    ledger.assets.finish(first, stored(first))
    ledger.assets.retry(second, ledger.clock() + 60, "not there yet")
    return ref


# The numbers of events, deliveries and attempts.


def numbers(ledger: LedgerHarness) -> dict[str, int]:
    """Return the newest number of each table with numbers."""
    return {
        table: max(row[0] for row in ledger.everything()[table])
        for table in ("events", "deliveries", "attempts")
    }


def test_a_number_is_never_used_twice_and_so_new_events_are_delivered(
    ledger: LedgerHarness,
) -> None:
    outbox, pruner = Outbox(ledger.database, ledger.clock), ledger.pruner()
    outbox.register(["log:"])
    for number in range(3):
        tried_twice(ledger, f"task-{number}")
    tell_all(outbox)
    before = numbers(ledger)
    assert pruner.jobs(ledger.clock() + DAY)[:2] == (2, {})
    assert numbers(ledger) == before
    new = tried_twice(ledger, "task-new")
    assert [event["ref"] for event in ledger.events.after(before["events"])] == [new, new]
    assert all(numbers(ledger)[table] > before[table] for table in before)
    assert tell_all(outbox) == [new, new]


def test_a_job_with_a_newest_number_is_pruned_once_there_is_a_newer_one(
    ledger: LedgerHarness,
) -> None:
    pruner = ledger.pruner()
    tried, reported, ended = (
        tried_twice(ledger, "task-1"),
        ledger.failed("task-2"),
        ledger.submitting(),
    )
    ledger.jobs.expire(ended, "no word")
    old = ledger.expired("task-3")
    ledger.deliver(reported, failed(provider_id="task-2"))
    assert [pruner.jobs(ledger.clock() + 1)[0], left(ledger)] == [1, {tried, reported, old}]
    assert pruner.jobs(ledger.clock() + 1)[:2] == (0, {})
    kept = newest(ledger)
    assert [pruner.jobs(ledger.clock() + 1)[0], left(ledger)] == [3, {kept}]


# Events that are not delivered yet.


def test_a_job_stays_as_long_as_its_events_are_not_delivered(ledger: LedgerHarness) -> None:
    outbox, pruner = Outbox(ledger.database, ledger.clock), ledger.pruner()
    outbox.register(["log:"])
    ref = ledger.failed("task-1")
    outbox.register(["later"])  # gets no earlier events
    assert pruner.jobs(ledger.clock() + 1) == (0, {"log:": 1}, ref)  # not handed over yet
    (sending,) = claimed(outbox)
    assert pruner.jobs(ledger.clock() + 1) == (0, {"log:": 1}, ref)  # claimed by a sender
    outbox.set_aside(sending, "not reachable")
    assert pruner.jobs(ledger.clock() + 1) == (
        0,
        {"log:": 1},
        ref,
    )  # a person may have it sent again
    outbox.resend(sending.row.event)
    (sending,) = claimed(outbox)
    outbox.mark_sent(sending)
    newest(ledger)
    assert pruner.jobs(ledger.clock() + 1) == (1, {}, ref)
    assert ledger.queries.job(ref) is None


def test_each_destination_is_named_with_the_jobs_that_stay_for_it_until_it_is_forgotten(
    ledger: LedgerHarness,
) -> None:
    outbox, pruner = Outbox(ledger.database, ledger.clock), ledger.pruner()
    outbox.register(["log:", "gone"])
    first = ledger.failed("task-1")
    outbox.set_aside(claimed(outbox)[0], "not reachable")
    second = ledger.failed("task-2")
    tell_all(outbox)
    newest(ledger)
    assert pruner.jobs(ledger.clock() + 1) == (0, {"gone": 2, "log:": 1}, max(first, second))
    outbox.forget("gone")
    assert pruner.jobs(ledger.clock() + 1) == (1, {"log:": 1}, max(first, second))
    assert ledger.queries.job(second) is None


def claimed(outbox: Outbox) -> list[Claimed[EventDelivery]]:
    return outbox.claim("log:", list(EventType), 10)


def tell_all(outbox: Outbox) -> list[str]:
    """Deliver everything to the log; return the jobs' refs."""
    refs = []
    while sendings := claimed(outbox):
        for sending in sendings:
            outbox.mark_sent(sending)
            refs.append(sending.row.ref)
    return refs


# Bodies.


def test_bodies_are_emptied_before_their_jobs_go_and_their_digests_stay(
    ledger: LedgerHarness,
) -> None:
    ref, unfinished = ledger.archived(1, "task-1"), ledger.archiving(1, "task-2")
    unreadable = ledger.failed("task-3")
    with pytest.raises(ReceiverError):
        ledger.deliver(unreadable, b"{")
    before = ledger.queries.delivery_log(ref)
    pruner = ledger.pruner()
    assert pruner.bodies(ledger.clock() + 1) == (2, max(ref, unreadable))
    assert pruner.bodies(ledger.clock() + 1, max(ref, unreadable)) == (0, "")
    (after,) = ledger.queries.delivery_log(ref)
    assert (after.digest, after.size) == (before[0].digest, 0)
    assert [delivery.body for delivery in ledger.queries.deliveries(unfinished)] == [
        succeeded(*urls(1), provider_id="task-2")
    ]
    assert [delivery.body for delivery in ledger.queries.deliveries(unreadable)] == [b"", b"{"]
    assert ledger.totals.audit().ok


def test_what_was_emptied_is_not_replayed_and_keeps_its_verdict(ledger: LedgerHarness) -> None:
    ref = ledger.archived(1, "task-1")
    ledger.pruner().bodies(ledger.clock() + 1)
    (delivery,) = ledger.queries.delivery_log(ref)
    with pytest.raises(ReceiverError, match="nothing of it to replay"):
        ledger.operator.replay(delivery.id)
    assert ledger.verdicts(ref) == ["ended"]


def test_what_came_empty_is_replayed_like_anything_unreadable(ledger: LedgerHarness) -> None:
    ref = ledger.waiting("task-1")
    with pytest.raises(ReceiverError):
        ledger.deliver(ref, b"")
    (delivery,) = ledger.queries.delivery_log(ref)
    with pytest.raises(ReceiverError, match="still unreadable"):
        ledger.operator.replay(delivery.id)


def test_a_body_that_has_the_only_copy_of_a_picture_is_kept(ledger: LedgerHarness) -> None:
    body = json.dumps({"data": [{"b64_json": "AAAA"}, {"b64_json": "AAAA"}]}).encode()
    half, whole = ledger.submitting(mode=Mode.SYNC), ledger.submitting(mode=Mode.SYNC)
    for ref, end in ((half, JobState.EXPIRED), (whole, JobState.ARCHIVED)):
        ledger.deliver(ref, body, Source.SYNC)
        first, second = ledger.assets.claim(2)
        ledger.assets.finish(first, stored(first))
        if end is JobState.ARCHIVED:
            ledger.assets.finish(second, stored(second))
        else:
            ledger.assets.give_up(second, AssetState.EXPIRED, "the archive was away")
        ledger.conclude(ref, end)
    assert ledger.pruner().bodies(ledger.clock() + 1)[0] == 1
    assert [ledger.assets.reports(ref) for ref in (half, whole)] == [
        [(Provider.GRSAI, body)],
        [(Provider.GRSAI, b"")],
    ]
    assert ledger.operator.retry(half).state is JobState.ARCHIVING


def test_more_than_a_batch_goes_batch_by_batch(
    ledger: LedgerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "BATCH", 20)  # instead of 200, which takes ten times as long
    for number in range(20 + 1):
        ref = ledger.submitting()
        ledger.jobs.expire(ref, f"no word of {number}")
    pruner, kept = ledger.pruner(), newest(ledger)
    first, _, place = pruner.jobs(ledger.clock() + 1)
    assert (first, pruner.jobs(ledger.clock() + 1, place), left(ledger)) == (
        20,
        (1, {}, ref),
        {kept},
    )


def test_the_command_says_what_it_did_and_refuses_what_is_too_young(
    sqlite_url: str, tmp_path: Path
) -> None:
    environ = {"DATA_DIR": str(tmp_path), "DATABASE_URL": sqlite_url}
    with opened(sqlite_url) as ledger:
        ledger.clock.now = 1_600_000_000.0
        ledger.archived(1, "task-1")
        kept = ledger.failed("task-2")
        Outbox(ledger.database, ledger.clock).register(["log:"])
        ledger.execute("UPDATE destinations SET cursor = cursor - 1")
        assert ledger.queries.job(kept)
        for wrong, message in (
            ([], "name --older-than"),
            (["--older-than", "5m"], "at least 1h"),
            (["--older-than", "soon"], "such as 90d"),
        ):
            refused = invoke(["receiver", "prune", *wrong], environ, folder=tmp_path)
            assert (refused.status, message in refused.err) == (2, True), refused
        done = invoke(
            ["receiver", "prune", "--older-than", "365d", "--bodies-older-than", "30d"],
            environ,
            folder=tmp_path,
        )
        assert (done.status, done.out.splitlines()) == (
            0,
            [
                "1 jobs deleted, 1 bodies deleted",
                "1 jobs are kept: their events are not delivered to log: yet",
                (
                    "`receiver events` shows what waits; a destination that is gone for good "
                    "is deleted with `receiver events --forget NAME`"
                ),
            ],
        )
        assert [job.state for job in ledger.queries.jobs()] == [JobState.FAILED]
