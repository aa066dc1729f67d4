"""Reads of the ledger on both databases: pages, searches, the audit, what is due, events."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event

import pytest
from ledgers import NOW, TIMING, Books, failed, opened, running, succeeded
from side_by_side import side_by_side
from sqlalchemy import Connection, func, select
from waiting import until

from receiver.errors import LedgerError
from receiver.ledger.jobs import find_job, finish_job
from receiver.ledger.queries import totals
from receiver.ledger.sqlite import SqliteDatabase
from receiver.ledger.tables import jobs
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


def test_a_job_that_comes_while_somebody_turns_pages_does_not_disturb_them(books: Books) -> None:
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
def test_a_search_takes_every_sign_to_the_letter_and_no_case_to_heart(
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


def test_jobs_and_assets_are_found_by_name_and_the_unknown_is_passed_over(books: Books) -> None:
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


def test_deliveries_are_given_back_as_they_came_and_in_their_order(books: Books) -> None:
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


# The audit.


def one_of_each(books: Books) -> dict[str, str]:
    """Create one job in each state; return their refs by state."""
    return {
        "submitting": books.submitting(),
        "waiting": books.waiting("task-1"),
        "archived": books.archived(2, "task-3"),
        "archiving": books.archiving(2, "task-2"),
        "failed": books.failed("task-4"),
        "expired": books.expired("task-5"),
    }


def test_the_numbers_of_the_audit_add_up(books: Books) -> None:
    one_of_each(books)
    books.failed("task-6")
    audit = books.totals.audit()
    assert (audit.submitted, audit.archived, audit.failed, audit.expired, audit.in_flight) == (
        7,
        1,
        2,
        1,
        3,
    )
    assert (audit.difference, audit.broken, audit.ok) == (0, {}, True)
    assert books.totals.counts() == {**dict.fromkeys(map(str, JobState), 1), "failed": 2}


def test_an_empty_ledger_is_in_order(books: Books) -> None:
    audit = books.totals.audit()
    assert (audit.submitted, audit.difference, audit.ok) == (0, 0, True)
    assert books.totals.counts() == dict.fromkeys(JobState, 0)


def test_a_recent_audit_examines_new_jobs_and_believes_the_state_of_old_ones(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = one_of_each(books)
    books.clock.advance(totals.RECENT + 1)
    new = books.failed("task-6")
    monkeypatch.setattr(totals, "FEW", 0)
    assert books.totals.recent_audit(books.clock()) == books.totals.audit()
    for ref in (old["failed"], new):
        books.execute("DELETE FROM events WHERE ref = :ref", ref=ref)
    found = books.totals.recent_audit(books.clock())
    assert (found.failed, found.difference) == (1, 1)
    assert found.broken == {"every end is announced by its event": [new]}
    monkeypatch.setattr(totals, "FEW", 20_000)
    assert books.totals.recent_audit(books.clock()) == books.totals.audit()


INVARIANTS = [
    (
        "an archived job has assets, all of them archived",
        "archived",
        "DELETE FROM assets WHERE ref = :ref",
    ),
    (
        "an archived job has assets, all of them archived",
        "archived",
        "UPDATE assets SET state = 'failed' WHERE ref = :ref AND idx = 1",
    ),
    (
        "a final job has no pending asset",
        "expired",
        (
            "INSERT INTO assets (ref, idx, state, url, announced_at, expires_at, due_at) "
            "VALUES (:ref, 0, 'pending', '', 0, 0, 0)"
        ),
    ),
    ("an archiving job has assets", "archiving", "DELETE FROM assets WHERE ref = :ref"),
    *(
        (
            "every end is announced by its event",
            state,
            "DELETE FROM events WHERE ref = :ref AND type LIKE 'job.%'",
        )
        for state in ("archived", "failed", "expired")
    ),
    (
        "every end is announced by its event",
        "failed",
        "UPDATE events SET round = 1 WHERE ref = :ref",
    ),
]


@pytest.mark.parametrize(("invariant", "state", "violation"), INVARIANTS)
def test_a_violated_invariant_is_named_with_the_job_that_violates_it(
    books: Books, invariant: str, state: str, violation: str
) -> None:
    refs = one_of_each(books)
    books.execute(violation, ref=refs[state])
    audit = books.totals.audit()
    assert (audit.broken, audit.ok) == ({invariant: [refs[state]]}, False)


@pytest.mark.parametrize(
    ("state", "violation", "difference"),
    [
        ("failed", "DELETE FROM events WHERE ref = :ref", 1),
        (
            "waiting",
            (
                "INSERT INTO events (ref, idx, round, type, created_at, payload) "
                "VALUES (:ref, -1, 0, 'job.failed', 0, '{}')"
            ),
            -1,
        ),
    ],
)
def test_a_job_that_is_nowhere_or_in_two_places_makes_a_difference(
    books: Books, state: str, violation: str, difference: int
) -> None:
    refs = one_of_each(books)
    books.execute(violation, ref=refs[state])
    assert (books.totals.audit().difference, books.totals.audit().ok) == (difference, False)


def test_of_many_jobs_that_violate_an_invariant_twenty_are_named(books: Books) -> None:
    for number in range(25):
        books.failed(f"task-{number}")
    books.execute("DELETE FROM events")
    assert [len(refs) for refs in books.totals.audit().broken.values()] == [20]


def test_an_audit_sees_one_moment_however_much_is_written_meanwhile(books: Books) -> None:
    books.waiting()

    def count_twice(connection: Connection) -> list[int]:
        counts = []
        for _ in range(2):
            counts.append(connection.execute(select(func.count()).select_from(jobs)).scalar_one())
            books.failed(f"task-{len(counts) + 1}")
        return counts

    assert books.database.read(count_twice) == [1, 1]
    assert books.totals.audit().submitted == 3


def test_the_audit_holds_while_jobs_come_and_end(books: Books) -> None:
    def live(number: int) -> None:
        for turn in range(6):
            books.failed(f"task-{number}-{turn}")

    def audit_again_and_again() -> None:
        assert [audit.difference for audit in (books.totals.audit() for _ in range(12))] == [0] * 12

    works: list[Callable[[], None]] = [partial(live, number) for number in range(3)]
    side_by_side([*works, audit_again_and_again])
    assert books.totals.audit().failed == 18


# What is due.


def test_the_oldest_due_work_is_that_which_waits_for_a_thread_the_longest(books: Books) -> None:
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


@pytest.mark.parametrize("bring", [Books.archived, Books.failed, Books.expired])
def test_a_job_that_is_over_is_never_due(books: Books, bring: Callable[[Books], str]) -> None:
    bring(books)
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
        until(lambda: second.done() or is_kept_waiting(books))
        seen = books.events.after()
        read.set()
        first.result()
        second.result()
    seen += books.events.after(seen[-1]["id"] if seen else 0)
    assert [event["ref"] for event in seen] == [slow, quick]


def is_kept_waiting(books: Books) -> bool:
    """Return whether a write waits for another one."""
    if isinstance(books.database, SqliteDatabase):
        return len(books.database._group_commit._queue) > 0
    question = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return bool(
        books.database.read(lambda connection: connection.exec_driver_sql(question).scalar_one())
    )


# A ledger that is away.


@pytest.mark.parametrize(
    "url",
    ["sqlite:////dev/null/ledger.sqlite3", "postgresql+psycopg://nobody@/nowhere?host=/dev/null"],
)
@pytest.mark.parametrize(
    "ask",
    [lambda books: books.totals.counts(), lambda books: books.totals.audit(), Books.submitting],
)
def test_a_ledger_that_is_away_says_so(url: str, ask: Callable[[Books], object]) -> None:
    with (
        opened(url) as books,
        pytest.raises(LedgerError, match=r"the ledger can(not)? be (used|written) now"),
    ):
        ask(books)


def test_a_ledger_that_is_there_answers(books: Books) -> None:
    books.totals.counts()
