"""Reads of the ledger on both databases: pages, searches, what is due, events, a missing ledger."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from ledgers import NOW, TIMING, LedgerHarness, failed, opened, running, succeeded
from sqlalchemy import Connection
from waiting import until

from receiver.errors import LedgerError
from receiver.ledger.jobs import find_job, finish_job
from receiver.ledger.sqlite import SqliteDatabase
from receiver.model import JobState

pytestmark = pytest.mark.both_databases

# Pages and searches.


def several(ledger: LedgerHarness, count: int) -> list[str]:
    """Submit jobs a second apart; return their refs, newest first."""
    refs = []
    for _ in range(count):
        refs.append(ledger.submitting())
        ledger.clock.advance(1)
    return refs[::-1]


@pytest.mark.parametrize("limit", [1, 3, 7, 8])
def test_pages_of_jobs_follow_each_other_from_the_newest_to_the_oldest(
    ledger: LedgerHarness, limit: int
) -> None:
    refs = several(ledger, 7)
    seen: list[str] = []
    while page := ledger.queries.jobs(limit=limit, after=seen[-1] if seen else ""):
        assert len(page) <= limit
        seen += [job.ref for job in page]
    assert seen == refs


def test_a_new_job_does_not_change_the_following_pages(ledger: LedgerHarness) -> None:
    refs = several(ledger, 4)
    first = [job.ref for job in ledger.queries.jobs(limit=2)]
    ledger.submitting()
    assert first + [job.ref for job in ledger.queries.jobs(limit=9, after=first[-1])] == refs


def test_jobs_are_found_by_their_state(ledger: LedgerHarness) -> None:
    waiting, archived, failed = (
        ledger.waiting("task-1"),
        ledger.archived(2, "task-2"),
        ledger.failed("task-3"),
    )
    expected = {
        JobState.WAITING: [waiting],
        JobState.ARCHIVED: [archived],
        JobState.FAILED: [failed],
        JobState.EXPIRED: [],
    }
    assert {
        state: [job.ref for job in ledger.queries.jobs(state=state)] for state in expected
    } == expected


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("50 % off", ["50 % off"]),
        ("%", ["50 % off"]),
        ("a_b", ["a_b"]),
        ("_", ["a_b"]),
        ("/", ["and/or"]),
        ("\\", ["C:\\fox"]),
        ("'", ["it's"]),
        ("FOX", ["C:\\fox", "a red Fox"]),
        ("狐狸", ["红色的狐狸"]),
        ("no such thing", []),
    ],
)
def test_a_search_matches_every_character_literally_and_ignores_case(
    ledger: LedgerHarness, search: str, found: list[str]
) -> None:
    for prompt in (
        "a red Fox",
        "50 % off",
        "a_b",
        "aXb",
        "and/or",
        "C:\\fox",
        "it's",
        "红色的狐狸",
    ):
        ledger.submitting(prompt)
    assert sorted(job.prompt for job in ledger.queries.jobs(search=search)) == sorted(found)


def test_a_search_looks_at_the_ref_the_providers_id_the_model_and_the_prompt(
    ledger: LedgerHarness,
) -> None:
    ref = ledger.submitting("a red fox", model="nano-banana")
    ledger.jobs.record_accepted(ref, "14-f00d")
    ledger.clock.advance(1)
    ledger.submitting("a blue whale")
    for search in (ref[:10].lower() + ref[10:], "14-F00D", "banana", "red fox"):
        assert [job.ref for job in ledger.queries.jobs(search=search)] == [ref]
    assert ledger.queries.jobs(search="fox", state=JobState.ARCHIVED) == []


def test_jobs_and_assets_are_found_by_ref_and_unknown_refs_are_ignored(
    ledger: LedgerHarness,
) -> None:
    first, second = ledger.archiving(2, "task-1"), ledger.waiting("task-2")
    assert [job.ref for job in ledger.queries.jobs_named(["nowhere", second, first])] == sorted(
        [first, second]
    )
    assert {
        ref: len(assets)
        for ref, assets in ledger.queries.assets([first, second, "nowhere"]).items()
    } == {
        first: 2,
        second: 0,
        "nowhere": 0,
    }
    assert ledger.queries.job("nowhere") is None


def test_deliveries_are_returned_unchanged_and_in_order(ledger: LedgerHarness) -> None:
    ref = ledger.waiting()
    bodies = [
        running(progress=1),
        b'{"id": "task-1", "status": "running", "odd": "\xc3\xa9"}',
        succeeded(),
        failed(),
    ]
    for body in bodies:
        ledger.clock.advance(1)
        ledger.deliver(ref, body)
    kept = ledger.queries.deliveries(ref)
    assert [delivery.body for delivery in kept] == bodies
    assert [delivery.received_at for delivery in kept] == [NOW + 1, NOW + 2, NOW + 3, NOW + 4]
    assert ledger.queries.delivery(kept[2].id) == kept[2]
    assert ledger.queries.delivery(kept[-1].id + 1) is None


# What is due.


def test_the_oldest_due_work_is_what_has_waited_longest_for_a_thread(ledger: LedgerHarness) -> None:
    assert (ledger.queries.oldest_due(NOW + 1e9), ledger.queries.next_due("jobs")) == (None, None)
    ledger.waiting()
    assert (ledger.queries.oldest_due(NOW), ledger.queries.next_due("jobs")) == (
        None,
        NOW + TIMING.poll_after,
    )
    assert ledger.queries.oldest_due(NOW + 500) == NOW + TIMING.poll_after
    ledger.clock.advance(20)
    ledger.archiving(2, "task-2")
    assert (ledger.queries.oldest_due(NOW + 500), ledger.queries.next_due("assets")) == (
        NOW + 20,
        NOW + 20,
    )
    ledger.clock.advance(-10)
    ledger.hints.add("task-3")
    assert (ledger.queries.oldest_due(NOW + 500), ledger.queries.next_due("hints")) == (
        NOW + 10,
        NOW + 10,
    )
    ledger.hints.claim(1)
    assert ledger.queries.oldest_due(NOW + 30) == NOW + 20


@pytest.mark.parametrize(
    "make", [LedgerHarness.archived, LedgerHarness.failed, LedgerHarness.expired]
)
def test_a_job_that_is_over_is_never_due(
    ledger: LedgerHarness, make: Callable[[LedgerHarness], str]
) -> None:
    make(ledger)
    assert [ledger.queries.next_due(table) for table in ("jobs", "assets", "hints")] == [None] * 3


# Events.


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_events_are_read_page_by_page_each_once(ledger: LedgerHarness, limit: int) -> None:
    refs = [ledger.archived(1, "task-1"), ledger.failed("task-2"), ledger.expired("task-3")]
    seen: list[tuple[str, str]] = []
    last = 0
    while page := ledger.events.after(last, limit):
        assert len(page) <= limit
        last = page[-1]["id"]
        seen += [(event["ref"], event["type"]) for event in page]
    assert seen == [
        (refs[0], "asset.archived"),
        (refs[0], "job.archived"),
        (refs[1], "job.failed"),
        (refs[2], "job.expired"),
    ]


def test_reading_events_page_by_page_never_skips_one_that_becomes_visible_later(
    ledger: LedgerHarness,
) -> None:
    slow, quick = ledger.waiting("task-1"), ledger.waiting("task-2")
    written, read = Event(), Event()

    def end_slowly(connection: Connection) -> None:
        job = find_job(connection, slow, locked=True)
        assert job is not None
        finish_job(connection, job, JobState.EXPIRED, NOW)
        written.set()
        assert read.wait(20)

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(ledger.database.write, end_slowly)
        assert written.wait(20)
        second = threads.submit(ledger.deliver, quick, failed(provider_id="task-2"))
        until(lambda: second.done() or a_write_waits(ledger))
        seen = ledger.events.after()
        read.set()
        first.result()
        second.result()
    seen += ledger.events.after(seen[-1]["id"] if seen else 0)
    assert [event["ref"] for event in seen] == [slow, quick]


def a_write_waits(ledger: LedgerHarness) -> bool:
    """Return whether a write waits for another one."""
    if isinstance(ledger.database, SqliteDatabase):
        return len(ledger.database._group_commit._queue) > 0
    statement = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return bool(
        ledger.database.read(lambda connection: connection.exec_driver_sql(statement).scalar_one())
    )


# A ledger that cannot be reached.


@pytest.mark.parametrize(
    "url",
    ["sqlite:////dev/null/ledger.sqlite3", "postgresql+psycopg://nobody@/nowhere?host=/dev/null"],
)
@pytest.mark.parametrize(
    "work",
    [
        lambda ledger: ledger.totals.counts(),
        lambda ledger: ledger.totals.audit(),
        LedgerHarness.submitting,
    ],
)
def test_a_ledger_that_cannot_be_reached_raises_a_ledger_error(
    url: str, work: Callable[[LedgerHarness], object]
) -> None:
    with (
        opened(url) as ledger,
        pytest.raises(LedgerError, match=r"the ledger can(not)? be (used|written) now"),
    ):
        work(ledger)


def test_a_ledger_that_can_be_reached_answers(ledger: LedgerHarness) -> None:
    ledger.totals.counts()
