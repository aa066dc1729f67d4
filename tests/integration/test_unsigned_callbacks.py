"""Callbacks without a ticket only name a task; the provider's own answer decides.

A body that disagrees with that answer is stored and marked.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ledgers import BASE_URL, NOW, TIMING, LedgerHarness, failed, running, succeeded, urls
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


# The endpoint.


def test_without_an_api_key_a_callback_without_a_ticket_is_401(
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
def test_a_body_without_a_task_id_is_refused(web: WebClient, body: bytes) -> None:
    answer = web.client.post("/callback", data=body)
    assert (answer.status_code, answer.json["ok"]) == (400, False)
    assert rows(web, "hints", "deliveries") == [0, 0]


def test_a_callback_without_a_ticket_stores_one_hint_per_task(
    web: WebClient,
) -> None:
    for _ in range(2):
        answer = web.client.post("/callback", json=SUCCEEDED)
        assert (answer.status_code, answer.json) == (
            202,
            {"ok": True, "message": "to be confirmed with GRSAI"},
        )
        assert rows(web, "hints", "jobs", "deliveries", "assets") == [1, 0, 0, 0]


def test_a_callback_without_a_ticket_about_a_known_task_causes_a_poll_and_decides_nothing(
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


def test_a_slash_behind_the_path_changes_nothing(web: WebClient) -> None:
    answer = web.client.post("/callback/", json=SUCCEEDED)
    assert (answer.status_code, answer.headers.get("Location")) == (202, None)
    assert rows(web, "hints") == [1]


def test_no_similar_path_takes_callbacks(web: WebClient) -> None:
    for path in ("/Callback", "/callbacks", "/x/callback"):
        answer = web.client.post(path, json=SUCCEEDED)
        assert (answer.status_code, answer.headers.get("Location")) == (404, None)
    assert rows(web, "hints") == [0]


# Rate limits.


def from_address(web: WebClient, address: str, body: Any) -> Any:
    return web.client.post("/callback", json=body, environ_overrides={"REMOTE_ADDR": address})


def test_one_flooding_source_gets_only_its_share(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With a real clock a slow machine would let one more pass.
    limiter = RateLimiter(callback.TASKS_A_MINUTE, clock=lambda: 0.0)
    monkeypatch.setattr(callback, "_task_limiter", lambda: limiter)
    with web_client(tmp_path / "data", environ) as web:
        flood = [
            from_address(web, "203.0.113.9", {"id": f"made-up-{number}"}) for number in range(100)
        ]
        share = callback.TASKS_A_MINUTE // 2
        assert [answer.status_code for answer in flood] == [202] * share + [503] * (100 - share)
        assert flood[-1].headers["Retry-After"] == "5"
        assert web.counted("turned_away") >= 100 - share
        assert from_address(web, "198.51.100.1", SUCCEEDED).status_code == 202, (
            "another source still passes"
        )
        assert rows(web, "hints") == [share + 1]


def test_a_flood_without_tickets_blocks_no_callback_with_a_ticket(
    web: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callback, "_request_limiter", lambda: RateLimiter(0))
    assert web.client.post("/callback", json=RUNNING).status_code == 503
    assert web.callback(web.ticket(), RUNNING).status_code == 200


def test_a_rate_limiter_refills_and_a_source_gets_half() -> None:
    now = 0.0
    limiter = RateLimiter(4, clock=lambda: now)
    assert [limiter.allows("10.0.0.1") for _ in range(3)] == [True, True, False]
    assert [
        limiter.allows("2001:db8::1"),
        limiter.allows("2001:db8::ffff"),
        limiter.allows("2001:db8::2"),
    ] == [True, True, False]
    assert [
        limiter.allows("10.0.0.2"),
        limiter.allows("::ffff:10.0.0.3"),
        limiter.allows(None),
    ] == [False] * 3, "the total is used up"
    now = 15.0
    assert [limiter.allows("10.0.0.3"), limiter.allows("10.0.0.3")] == [True, False], (
        "a quarter of a minute adds one"
    )
    now = 10_000.0
    assert [limiter.allows(f"10.0.1.{number}") for number in range(6)] == [True] * 4 + [
        False
    ] * 2, "and never more than the capacity"


def test_a_rate_limiter_remembers_a_limited_number_of_sources() -> None:
    limiter = RateLimiter(1e9)
    for number in range(3000):
        limiter.allows(f"10.0.{number // 256}.{number % 256}")
    assert len(limiter._sources) == 1000


@pytest.mark.parametrize(
    "body", [succeeded(provider_id="task-2"), succeeded("")], ids=["another's id", "no result"]
)
def test_a_doubtful_callback_with_a_ticket_causes_a_poll_at_once_and_then_once_a_poll_interval(
    ledger: LedgerHarness, body: bytes
) -> None:
    ref = ledger.waiting()
    for _ in range(3):
        ledger.deliver(ref, body)
    assert ledger.job(ref).due_at == NOW
    (claimed,) = ledger.jobs.claim(1)
    ledger.jobs.release(claimed, NOW + 1000)
    ledger.clock.advance(10)
    ledger.deliver(ref, body)
    assert ledger.job(ref).due_at == NOW + 10 + TIMING.poll_interval
    ledger.clock.advance(TIMING.poll_interval + 1)
    ledger.deliver(ref, body)
    assert ledger.job(ref).due_at == NOW + 10 + TIMING.poll_interval, "it is due already"


def test_callbacks_without_a_ticket_cause_at_most_one_poll_per_poll_interval(
    ledger: LedgerHarness,
) -> None:
    ref = ledger.waiting()
    for wait in (0, 10, 10):
        ledger.clock.advance(wait)
        assert (
            ledger.inbox.accept(
                Delivery(ref, Source.CALLBACK, succeeded(), ledger.clock()), unsigned=True
            )
            is Decision.UNCONFIRMED
        )
        assert ledger.job(ref).due_at == NOW + TIMING.poll_interval
    assert ledger.notified == 0


# The decision about a body that had to be confirmed.

TRUE, FORGED = "https://files.test/true.png", "https://files.test/forged.png"


@pytest.mark.parametrize("unsigned", [True, False])
@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        (succeeded(TRUE), "duplicate"),
        (succeeded(TRUE + "?signed=again"), "duplicate"),
        (succeeded(FORGED), "contradiction"),
        (succeeded(TRUE, FORGED), "contradiction"),
        (failed(), "contradiction"),
        (running(), "late"),
        (succeeded("https://[broken"), "contradiction"),
    ],
)
def test_the_providers_answer_decides_and_a_body_that_disagrees_is_marked_and_logged(
    ledger: LedgerHarness,
    body: bytes,
    verdict: str,
    capsys: pytest.CaptureFixture[str],
    *,
    unsigned: bool,
) -> None:
    inbox: Inbox = ledger.make_inbox(confirms=not unsigned)
    ref = ledger.waiting()
    assert (
        inbox.accept(Delivery(ref, Source.CALLBACK, body, NOW), unsigned=unsigned)
        is Decision.UNCONFIRMED
    )
    assert (ledger.job(ref).outcome, ledger.assets_of(ref)) == (None, []), (
        "it decides nothing, and its URLs are not fetched"
    )
    inbox.accept(Delivery(ref, Source.POLL, running(), NOW))
    assert ledger.verdicts(ref) == ["unconfirmed", "progress"], (
        "the provider's answer is still to come"
    )
    inbox.accept(Delivery(ref, Source.POLL, succeeded(TRUE), NOW))
    assert ledger.verdicts(ref) == [verdict, "progress", "ended"]
    assert (ledger.job(ref).outcome, [asset.url for asset in ledger.assets_of(ref)]) == (
        Outcome.SUCCEEDED,
        [TRUE],
    )
    said = capsys.readouterr().out
    assert ("disagrees with the provider's own answer" in said) is (verdict == "contradiction")
    assert next(delivery.body for delivery in ledger.queries.deliveries(ref)) == body


def test_the_providers_failure_overrules_a_forged_success(ledger: LedgerHarness) -> None:
    ref = ledger.waiting()
    ledger.inbox.accept(Delivery(ref, Source.CALLBACK, succeeded(FORGED), NOW), unsigned=True)
    ledger.deliver(ref, failed(), Source.POLL)
    assert (ledger.job(ref).state, ledger.verdicts(ref)) == (
        JobState.FAILED,
        ["contradiction", "ended"],
    )


@pytest.mark.both_databases
@pytest.mark.parametrize("unsigned", [True, False])
def test_a_body_after_the_end_is_decided_at_once(ledger: LedgerHarness, *, unsigned: bool) -> None:
    inbox = ledger.make_inbox(confirms=not unsigned)
    ref = ledger.archiving()
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
    assert [asset.url for asset in ledger.assets_of(ref)] == ["https://files.test/first/0.png"]


@pytest.mark.parametrize(
    ("body", "kept"),
    [(succeeded(FORGED), ["contradiction", "ended"]), (b"x" * (LARGEST_BODY + 1), ["ended"])],
)
def test_the_body_of_a_confirmed_hint_is_compared_with_the_providers_answer(
    ledger: LedgerHarness, body: bytes, kept: list[str]
) -> None:
    ledger.hints.add("task-1", body)
    (claimed,) = ledger.hints.claim(1)
    ledger.hints.adopt(ref := new_ref(NOW), claimed.row, BASE_URL)
    ledger.deliver(ref, succeeded(TRUE), Source.POLL)
    assert (ledger.verdicts(ref), [asset.url for asset in ledger.assets_of(ref)]) == (kept, [TRUE])
    assert ledger.everything()["hints"] == []
