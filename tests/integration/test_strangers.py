"""What comes without a ticket: it names a task and no more. What counts is the provider's own answer, and the rest is kept and marked."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ledgers import BASE_URL, NOW, TIMING, Books, failed, running, succeeded, urls
from web_client import FAILED, RUNNING, SUCCEEDED, WebClient, web_client

from receiver.ingest.inbox import Inbox
from receiver.ledger.hints import LARGEST_BODY
from receiver.model import Decision, Delivery, JobState, Outcome, Source, new_ref
from receiver.web import callback
from receiver.web.rate_limit import RateLimiter


@pytest.fixture
def environ(sqlite_url: str) -> dict[str, str]:
    return {"DATABASE_URL": sqlite_url, "GRSAI_API_KEY": "sk-test"}


@pytest.fixture
def web(environ: dict[str, str], tmp_path: Path) -> Iterator[WebClient]:
    with web_client(tmp_path / "data", environ) as web:
        yield web


def rows(web: WebClient, *tables: str) -> list[int]:
    with closing(sqlite3.connect(web.services.settings.ledger_path)) as connection:
        return [
            int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608 - our own words
            for table in tables
        ]


# The door.


def test_without_a_key_nothing_can_be_confirmed_so_nothing_is_taken(
    environ: dict[str, str], tmp_path: Path
) -> None:
    with web_client(tmp_path / "data", {**environ, "GRSAI_API_KEY": ""}) as web:
        answer = web.client.post("/callback", json=SUCCEEDED)
        assert (answer.status_code, answer.json["ok"]) == (401, False)
        assert "GRSAI_API_KEY" in answer.json["error"]
        assert rows(web, "hints", "jobs") == [0, 0]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b'{"status":"succeeded"}', b'{"id":"","status":"succeeded"}']
)
def test_a_body_that_names_no_task_is_refused(web: WebClient, body: bytes) -> None:
    answer = web.client.post("/callback", data=body)
    assert (answer.status_code, answer.json["ok"]) == (400, False)
    assert rows(web, "hints", "deliveries") == [0, 0]


def test_a_stranger_can_only_name_a_task_and_naming_it_again_changes_nothing(
    web: WebClient,
) -> None:
    for _ in range(2):
        answer = web.client.post("/callback", json=SUCCEEDED)
        assert (answer.status_code, answer.json) == (
            202,
            {"ok": True, "message": "to be confirmed with GRSAI"},
        )
        assert rows(web, "hints", "jobs", "deliveries", "assets") == [1, 0, 0, 0]


def test_a_stranger_who_names_a_known_task_has_it_asked_for_and_decides_nothing(
    web: WebClient,
) -> None:
    ticket = web.ticket()
    ref = ticket.partition(".")[0]
    web.callback(ticket, RUNNING)
    before = web.services.queries.job(ref)
    for body in (FAILED, SUCCEEDED):
        assert web.client.post("/callback", json=body).status_code == 202
    after = web.services.queries.job(ref)
    assert before is not None
    assert after is not None
    assert (after.state, after.outcome, rows(web, "hints", "assets")) == (
        JobState.WAITING,
        None,
        [0, 0],
    )
    assert web.verdicts(ref) == ["progress", "unconfirmed", "unconfirmed"]
    assert (after.due_at or 0) < (before.due_at or 0)


def test_nothing_but_post_callback_is_a_door(web: WebClient) -> None:
    for path in ("/Callback", "/callbacks", "/x/callback"):
        answer = web.client.post(path, json=SUCCEEDED)
        assert (answer.status_code, answer.headers.get("Location")) == (404, None)
    assert rows(web, "hints") == [0]


# How often.


def from_address(web: WebClient, address: str, body: Any) -> Any:
    return web.client.post("/callback", json=body, environ_overrides={"REMOTE_ADDR": address})


def test_one_flooding_stranger_leaves_room_for_others_and_names_no_more_than_his_share(
    environ: dict[str, str], tmp_path: Path
) -> None:
    with web_client(tmp_path / "data", environ) as web:
        flood = [
            from_address(web, "203.0.113.9", {"id": f"made-up-{number}"}) for number in range(100)
        ]
        share = callback.TASKS_A_MINUTE // 2
        assert [answer.status_code for answer in flood] == [202] * share + [503] * (100 - share)
        assert flood[-1].headers["Retry-After"] == "5"
        assert web.counted("turned_away") >= 100 - share
        assert from_address(web, "198.51.100.1", SUCCEEDED).status_code == 202, (
            "another one is heard"
        )
        assert rows(web, "hints") == [share + 1]


def test_a_flood_about_a_known_task_keeps_no_ticket_from_being_taken(
    web: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        callback, "_allowances", lambda: {"requests": RateLimiter(0), "tasks": RateLimiter(0)}
    )
    assert web.client.post("/callback", json=RUNNING).status_code == 503
    assert web.callback(web.ticket(), RUNNING).status_code == 200


def test_an_allowance_fills_up_again_and_a_source_has_half_of_it() -> None:
    now = 0.0
    allowance = RateLimiter(4, clock=lambda: now)
    assert [allowance.take("10.0.0.1") for _ in range(3)] == [True, True, False]
    assert [
        allowance.take("2001:db8::1"),
        allowance.take("2001:db8::ffff"),
        allowance.take("2001:db8::2"),
    ] == [True, True, False]
    assert [
        allowance.take("10.0.0.2"),
        allowance.take("::ffff:10.0.0.3"),
        allowance.take(None),
    ] == [False] * 3, "the whole is used up"
    now = 15.0
    assert [allowance.take("10.0.0.3"), allowance.take("10.0.0.3")] == [True, False], (
        "a quarter of a minute brings one"
    )
    now = 10_000.0
    assert [allowance.take(f"10.0.1.{number}") for number in range(6)] == [True] * 4 + [
        False
    ] * 2, "and never more than a minute's"


def test_an_allowance_remembers_a_bounded_number_of_sources() -> None:
    allowance = RateLimiter(1e9)
    for number in range(3000):
        allowance.take(f"10.0.{number // 256}.{number % 256}")
    assert len(allowance._sources) == 1000


@pytest.mark.parametrize(
    "body", [succeeded(provider_id="task-2"), succeeded("")], ids=["another's id", "no result"]
)
def test_who_has_a_ticket_has_a_job_asked_for_at_once_and_then_once_a_poll_interval(
    books: Books, body: bytes
) -> None:
    ref = books.waiting()
    for _ in range(3):
        books.deliver(ref, body)
    assert books.job(ref).due_at == NOW
    (claimed,) = books.ledger.claim_jobs(1)
    books.ledger.look_again(claimed, NOW + 1000)
    books.clock.advance(10)
    books.deliver(ref, body)
    assert books.job(ref).due_at == NOW + 10 + TIMING.poll_interval
    books.clock.advance(TIMING.poll_interval + 1)
    books.deliver(ref, body)
    assert books.job(ref).due_at == NOW + 10 + TIMING.poll_interval, "it is due already"


def test_strangers_have_a_job_asked_for_no_more_than_once_a_poll_interval(books: Books) -> None:
    ref = books.waiting()
    for wait in (0, 10, 10):
        books.clock.advance(wait)
        assert (
            books.inbox.accept(
                Delivery(ref, Source.CALLBACK, succeeded(), books.clock()), unsigned=True
            )
            is Decision.UNCONFIRMED
        )
        assert books.job(ref).due_at == NOW + TIMING.poll_interval
    assert books.rings == 0


# What becomes of a body that was not believed.

TRUE, FORGED = "https://files.test/true.png", "https://files.test/forged.png"


@pytest.mark.parametrize("unsigned", [True, False])
@pytest.mark.parametrize(
    ("told", "verdict"),
    [
        (succeeded(TRUE), "duplicate"),
        (succeeded(TRUE + "?signed=anew"), "duplicate"),
        (succeeded(FORGED), "contradiction"),
        (succeeded(TRUE, FORGED), "contradiction"),
        (failed(), "contradiction"),
        (running(), "late"),
        (succeeded("https://[broken"), "contradiction"),
    ],
)
def test_what_counts_is_the_read_back_and_a_body_that_disagrees_is_marked_and_told(
    books: Books, told: bytes, verdict: str, capsys: pytest.CaptureFixture[str], *, unsigned: bool
) -> None:
    inbox: Inbox = books.inbox_that(confirms=not unsigned)
    ref = books.waiting()
    assert (
        inbox.accept(Delivery(ref, Source.CALLBACK, told, NOW), unsigned=unsigned)
        is Decision.UNCONFIRMED
    )
    assert (books.job(ref).outcome, books.assets(ref)) == (None, []), (
        "it decides nothing, and nothing of it is fetched"
    )
    inbox.accept(Delivery(ref, Source.POLL, running(), NOW))
    assert books.verdicts(ref) == ["unconfirmed", "progress"], (
        "the provider's answer is still to come"
    )
    inbox.accept(Delivery(ref, Source.POLL, succeeded(TRUE), NOW))
    assert books.verdicts(ref) == [verdict, "progress", "ended"]
    assert (books.job(ref).outcome, [asset.url for asset in books.assets(ref)]) == (
        Outcome.SUCCEEDED,
        [TRUE],
    )
    said = capsys.readouterr().out
    assert ("disagrees with the provider's own answer" in said) is (verdict == "contradiction")
    assert next(delivery.body for delivery in books.queries.deliveries(ref)) == told


def test_a_read_back_of_a_failure_counts_against_a_forged_success(books: Books) -> None:
    ref = books.waiting()
    books.inbox.accept(Delivery(ref, Source.CALLBACK, succeeded(FORGED), NOW), unsigned=True)
    books.deliver(ref, failed(), Source.POLL)
    assert (books.job(ref).state, books.verdicts(ref)) == (
        JobState.FAILED,
        ["contradiction", "ended"],
    )


@pytest.mark.parametrize("unsigned", [True, False])
def test_a_body_after_the_end_is_judged_at_once(books: Books, *, unsigned: bool) -> None:
    inbox = books.inbox_that(confirms=not unsigned)
    ref = books.archiving()
    said = [
        inbox.accept(Delivery(ref, Source.CALLBACK, body, NOW), unsigned=unsigned)
        for body in (running(), failed(), succeeded(FORGED), succeeded(*urls(1)))
    ]
    assert said == [
        Decision.LATE,
        Decision.CONTRADICTION,
        Decision.CONTRADICTION,
        Decision.DUPLICATE,
    ]
    assert [asset.url for asset in books.assets(ref)] == ["https://files.test/first/0.png"]


@pytest.mark.parametrize(
    ("told", "kept"),
    [(succeeded(FORGED), ["contradiction", "ended"]), (b"x" * (LARGEST_BODY + 1), ["ended"])],
)
def test_what_came_with_a_confirmed_id_is_compared_with_the_providers_answer(
    books: Books, told: bytes, kept: list[str]
) -> None:
    books.ledger.hint("task-1", told)
    (claimed,) = books.ledger.claim_hints(1)
    books.ledger.adopt_hint(ref := new_ref(NOW), claimed.row, BASE_URL)
    books.deliver(ref, succeeded(TRUE), Source.POLL)
    assert (books.verdicts(ref), [asset.url for asset in books.assets(ref)]) == (kept, [TRUE])
    assert books.everything()["hints"] == []
