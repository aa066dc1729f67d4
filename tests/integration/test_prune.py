"""Forgetting what ended long ago: all of it goes or nothing, nobody misses news, and every law holds."""

from pathlib import Path

import pytest
from ledgers import Books, opened, stored, succeeded, urls
from processes import run

from receiver.errors import ReceiverError
from receiver.ledger import copy
from receiver.ledger.claims import Claimed
from receiver.ledger.outbox import Outbox
from receiver.ledger.prune import BATCH, Pruner
from receiver.ledger.rows import Sending
from receiver.model import EventType, JobState
from receiver.upkeep.by_hand import replay

DAY = 86400.0


def one_of_each(books: Books) -> dict[str, str]:
    """Have a job of each state, and one that is lost and sought again; return their refs by name."""
    refs = {
        "archived": books.archived(2, "task-1"),
        "failed": books.failed("task-2"),
        "expired": books.expired("task-3"),
        "archiving": books.archiving(1, "task-4"),
        "waiting": books.waiting("task-5"),
        "submitting": books.submitting(),
        "retried": books.failed("task-6"),
    }
    books.ledger.retry(refs["retried"])
    return refs


def left(books: Books) -> set[str]:
    """Return the refs of the jobs in the ledger."""
    return {job.ref for job in books.reports.jobs(limit=1000)}


def test_jobs_that_ended_before_go_and_all_others_stay(books: Books) -> None:
    refs = one_of_each(books)
    books.clock.advance(90 * DAY)
    recent = books.failed("task-7")
    pruner = Pruner(books.database)
    assert pruner.jobs(books.clock() - 91 * DAY) == (0, 0, "")
    assert pruner.jobs(books.clock() - 30 * DAY) == (3, 0, max(refs[name] for name in ("archived", "failed", "expired")))
    assert pruner.jobs(books.clock() - 30 * DAY) == (0, 0, "")
    assert left(books) == {recent, *(refs[name] for name in ("archiving", "waiting", "submitting", "retried"))}
    assert books.reports.audit().ok


def test_nothing_of_a_pruned_job_is_left_behind(books: Books) -> None:
    (claimed,) = claim_one(books)
    books.ledger.retry_asset(claimed, books.clock(), "not there yet")
    (claimed,) = books.ledger.claim_assets(1)
    books.ledger.finish_asset(claimed, stored(claimed))
    books.conclude(claimed.row.ref)
    assert Pruner(books.database).jobs(books.clock() + 1)[:2] == (1, 0)
    assert {name: number for name, number in copy.counts(books.database).items() if number} == {}


def claim_one(books: Books) -> list[Claimed]:  # type: ignore[type-arg]
    books.archiving(1, "task-1")
    return list(books.ledger.claim_assets(1))


def test_a_job_stays_as_long_as_somebody_is_to_be_told_of_it(books: Books) -> None:
    outbox, pruner = Outbox(books.database, books.clock), Pruner(books.database)
    outbox.begin(["log:"])
    ref = books.failed("task-1")
    assert pruner.jobs(books.clock() + 1) == (0, 1, ref)  # not handed over yet
    (sending,) = told(outbox)
    assert pruner.jobs(books.clock() + 1) == (0, 1, ref)  # in somebody's hand
    outbox.set_aside(sending, "nobody there")
    assert pruner.jobs(books.clock() + 1) == (0, 1, ref)  # a person may have it sent again
    outbox.resend(sending.row.event)
    (sending,) = told(outbox)
    outbox.sent(sending)
    assert pruner.jobs(books.clock() + 1) == (1, 0, ref)
    assert books.reports.job(ref) is None


def told(outbox: Outbox) -> list[Claimed[Sending]]:
    return outbox.claim("log:", list(EventType), 10)


def test_bodies_are_emptied_before_their_jobs_go_and_their_digests_stay(books: Books) -> None:
    ref, unfinished = books.archived(1, "task-1"), books.archiving(1, "task-2")
    unreadable = books.failed("task-3")
    with pytest.raises(ReceiverError):
        books.deliver(unreadable, b"{")
    before = books.reports.delivery_log(ref)
    pruner = Pruner(books.database)
    assert pruner.bodies(books.clock() + 1) == (2, max(ref, unreadable))
    assert pruner.bodies(books.clock() + 1, max(ref, unreadable)) == (0, "")
    (after,) = books.reports.delivery_log(ref)
    assert (after.digest, after.size) == (before[0].digest, 0)
    assert [delivery.body for delivery in books.reports.deliveries(unfinished)] == [succeeded(*urls(1), provider_id="task-2")]
    assert [delivery.body for delivery in books.reports.deliveries(unreadable)] == [b"", b"{"]
    with pytest.raises(ReceiverError, match="still unreadable"):
        replay(books.reports, books.inbox, after.id)
    assert books.reports.audit().ok


def test_more_than_a_batch_goes_batch_by_batch(books: Books) -> None:
    for number in range(BATCH + 1):
        ref = books.submitting()
        books.ledger.expire(ref, f"no word of {number}")
    pruner = Pruner(books.database)
    first, _, place = pruner.jobs(books.clock() + 1)
    assert (first, pruner.jobs(books.clock() + 1, place), left(books)) == (BATCH, (1, 0, ref), set())


def test_the_command_says_what_it_did_and_refuses_what_is_too_young(sqlite_url: str, tmp_path: Path) -> None:
    environ = {"DATA_DIR": str(tmp_path), "DATABASE_URL": sqlite_url}
    with opened(sqlite_url) as books:
        books.clock.now = 1_600_000_000.0
        books.archived(1, "task-1")
        kept = books.failed("task-2")
        Outbox(books.database, books.clock).begin(["log:"])
        books.execute("UPDATE destinations SET cursor = cursor - 1")
        assert books.reports.job(kept)
        for wrong, told_so in (([], "say what"), (["--older-than", "5m"], "at least 1h"), (["--older-than", "soon"], "such as 90d")):
            refused = run(["receiver", "prune", *wrong], environ, folder=tmp_path)
            assert (refused.status, told_so in refused.err) == (2, True), refused
        done = run(["receiver", "prune", "--older-than", "365d", "--bodies-older-than", "30d"], environ, folder=tmp_path)
        assert (done.status, done.out.splitlines()) == (
            0,
            [
                "1 jobs removed, 1 bodies emptied",
                "1 jobs stay, because somebody is still to be told how they ended; `receiver events` says who",
            ],
        )
        assert [job.state for job in books.reports.jobs()] == [JobState.FAILED]
