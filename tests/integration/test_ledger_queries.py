"""Reads of the ledger on both databases: pages, searches, what is due, events, a missing ledger."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from ledgers import NOW, TIMING, Books, failed, opened, running, succeeded
from sqlalchemy import Connection
from waiting import until

from receiver.errors import LedgerError
from receiver.ledger.jobs import find_job, finish_job
from receiver.ledger.sqlite import SqliteDatabase
from receiver.model import JobState

pytestmark = pytest.mark.both_databases

# Pages and searches.


def several(books: Books, count: int) -> list[str]:
    """Submit jobs a second apart; return their refs, newest first."""
    refs = []
    for _ in range(count):
        refs.append(books.submitting())
        books.clock.advance(1)
    return refs[::-1]


@pytest.mark.parametrize("limit", [1, 3, 7, 8])
def test_pages_of_jobs_follow_each_other_from_the_newest_to_the_oldest(
    books: Books, limit: int
) -> None:
    refs = several(books, 7)
    seen: list[str] = []
    while page := books.queries.jobs(limit=limit, after=seen[-1] if seen else ""):
        assert len(page) <= limit
        seen += [job.ref for job in page]
    assert seen == refs


def test_a_new_job_does_not_change_the_following_pages(books: Books) -> None:
    refs = several(books, 4)
    first = [job.ref for job in books.queries.jobs(limit=2)]
    books.submitting()
    assert first + [job.ref for job in books.queries.jobs(limit=9, after=first[-1])] == refs


def test_jobs_are_found_by_their_state(books: Books) -> None:
    waiting, archived, failed = (
        books.waiting("task-1"),
        books.archived(2, "task-2"),
        books.failed("task-3"),
    )
    expected = {
        JobState.WAITING: [waiting],
        JobState.ARCHIVED: [archived],
        JobState.FAILED: [failed],
        JobState.EXPIRED: [],
    }
    assert {
        state: [job.ref for job in books.queries.jobs(state=state)] for state in expected
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
    books: Books, search: str, found: list[str]
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
        books.submitting(prompt)
    assert sorted(job.prompt for job in books.queries.jobs(search=search)) == sorted(found)


def test_a_search_looks_at_the_ref_the_providers_id_the_model_and_the_prompt(books: Books) -> None:
    ref = books.submitting("a red fox", model="nano-banana")
    books.jobs.record_accepted(ref, "14-f00d")
    books.clock.advance(1)
    books.submitting("a blue whale")
    for search in (ref[:10].lower() + ref[10:], "14-F00D", "banana", "red fox"):
        assert [job.ref for job in books.queries.jobs(search=search)] == [ref]
    assert books.queries.jobs(search="fox", state=JobState.ARCHIVED) == []


def test_jobs_and_assets_are_found_by_ref_and_unknown_refs_are_ignored(books: Books) -> None:
    first, second = books.archiving(2, "task-1"), books.waiting("task-2")
    assert [job.ref for job in books.queries.jobs_named(["nowhere", second, first])] == sorted(
        [first, second]
    )
    assert {
        ref: len(assets) for ref, assets in books.queries.assets([first, second, "nowhere"]).items()
    } == {
        first: 2,
        second: 0,
        "nowhere": 0,
    }
    assert books.queries.job("nowhere") is None


def test_deliveries_are_returned_unchanged_and_in_order(books: Books) -> None:
    ref = books.waiting()
    bodies = [
        running(progress=1),
        b'{"id": "task-1", "status": "running", "odd": "\xc3\xa9"}',
        succeeded(),
        failed(),
    ]
    for body in bodies:
        books.clock.advance(1)
        books.deliver(ref, body)
    kept = books.queries.deliveries(ref)
    assert [delivery.body for delivery in kept] == bodies
    assert [delivery.received_at for delivery in kept] == [NOW + 1, NOW + 2, NOW + 3, NOW + 4]
    assert books.queries.delivery(kept[2].id) == kept[2]
    assert books.queries.delivery(kept[-1].id + 1) is None


# What is due.


def test_the_oldest_due_work_is_what_has_waited_longest_for_a_thread(books: Books) -> None:
    assert (books.queries.oldest_due(NOW + 1e9), books.queries.next_due("jobs")) == (None, None)
    books.waiting()
    assert (books.queries.oldest_due(NOW), books.queries.next_due("jobs")) == (
        None,
        NOW + TIMING.poll_after,
    )
    assert books.queries.oldest_due(NOW + 500) == NOW + TIMING.poll_after
    books.clock.advance(20)
    books.archiving(2, "task-2")
    assert (books.queries.oldest_due(NOW + 500), books.queries.next_due("assets")) == (
        NOW + 20,
        NOW + 20,
    )
    books.clock.advance(-10)
    books.hints.add("task-3")
    assert (books.queries.oldest_due(NOW + 500), books.queries.next_due("hints")) == (
        NOW + 10,
        NOW + 10,
    )
    books.hints.claim(1)
    assert books.queries.oldest_due(NOW + 30) == NOW + 20


@pytest.mark.parametrize("make", [Books.archived, Books.failed, Books.expired])
def test_a_job_that_is_over_is_never_due(books: Books, make: Callable[[Books], str]) -> None:
    make(books)
    assert [books.queries.next_due(table) for table in ("jobs", "assets", "hints")] == [None] * 3


# Events.


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_events_are_read_page_by_page_each_once(books: Books, limit: int) -> None:
    refs = [books.archived(1, "task-1"), books.failed("task-2"), books.expired("task-3")]
    seen: list[tuple[str, str]] = []
    last = 0
    while page := books.events.after(last, limit):
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
    books: Books,
) -> None:
    slow, quick = books.waiting("task-1"), books.waiting("task-2")
    written, read = Event(), Event()

    def end_slowly(connection: Connection) -> None:
        job = find_job(connection, slow, locked=True)
        assert job is not None
        finish_job(connection, job, JobState.EXPIRED, NOW)
        written.set()
        assert read.wait(20)

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(books.database.write, end_slowly)
        assert written.wait(20)
        second = threads.submit(books.deliver, quick, failed(provider_id="task-2"))
        until(lambda: second.done() or a_write_waits(books))
        seen = books.events.after()
        read.set()
        first.result()
        second.result()
    seen += books.events.after(seen[-1]["id"] if seen else 0)
    assert [event["ref"] for event in seen] == [slow, quick]


def a_write_waits(books: Books) -> bool:
    """Return whether a write waits for another one."""
    if isinstance(books.database, SqliteDatabase):
        return len(books.database._group_commit._queue) > 0
    statement = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return bool(
        books.database.read(lambda connection: connection.exec_driver_sql(statement).scalar_one())
    )


# A ledger that cannot be reached.


@pytest.mark.parametrize(
    "url",
    ["sqlite:////dev/null/ledger.sqlite3", "postgresql+psycopg://nobody@/nowhere?host=/dev/null"],
)
@pytest.mark.parametrize(
    "work",
    [lambda books: books.totals.counts(), lambda books: books.totals.audit(), Books.submitting],
)
def test_a_ledger_that_cannot_be_reached_raises_a_ledger_error(
    url: str, work: Callable[[Books], object]
) -> None:
    with (
        opened(url) as books,
        pytest.raises(LedgerError, match=r"the ledger can(not)? be (used|written) now"),
    ):
        work(books)


def test_a_ledger_that_can_be_reached_answers(books: Books) -> None:
    books.totals.counts()
