"""The stream of events: new events, continuing at a position, and the number of streams."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from web_client import FAILED, WebClient

from receiver.model import Submission
from receiver.web import state
from receiver.web.api import events as events_api


@pytest.fixture(autouse=True)
def fast_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_api, "QUERY_INTERVAL", 0.001)


def fail_a_job(web: WebClient, name: str) -> str:
    """Make a job that fails, which is an event; return its ref."""
    ref = web.services.jobs.submit(
        Submission("a fox", "gpt-image-1.5", {}), "https://provider.test"
    ).ref
    web.callback(web.services.tickets.sign(ref), {**FAILED, "id": name})
    return ref


def listen(web: WebClient, path: str = "/api/stream", **headers: str) -> Any:
    return web.client.get(path, headers={**web.admin, **headers}, buffered=False)


def events(answer: Any) -> Iterator[dict[str, str]]:
    """Read the events of a stream as a browser does; skip comments."""
    for block in answer.response:
        lines = [
            line.partition(": ")
            for line in block.decode().strip().splitlines()
            if not line.startswith((":", "retry"))
        ]
        if lines:
            yield {name: value for name, _, value in lines}


def test_a_stream_ends_with_the_session_that_opened_it(web: WebClient) -> None:
    web.client.post("/login", data={"token": web.services.admin_token})
    with web.client.get("/api/stream", buffered=False) as answer:
        found = events(answer)
        ref = fail_a_job(web, "first")
        assert ref in next(found)["data"]
        web.services.sessions.end()
        assert list(found) == []


def test_a_stream_sends_new_events_only(web: WebClient) -> None:
    fail_a_job(web, "before")
    with listen(web) as answer:
        assert answer.content_type == "text/event-stream; charset=utf-8"
        assert (answer.headers["Cache-Control"], answer.headers["X-Accel-Buffering"]) == (
            "no-store",
            "no",
        )
        found = events(answer)
        refs = [fail_a_job(web, "first"), fail_a_job(web, "second")]
        for ref in refs:
            event = next(found)
            assert (event["event"], ref in event["data"], event["id"].isdigit()) == (
                "job.failed",
                True,
                True,
            )


def test_a_streamed_event_is_that_of_the_list_and_its_id_is_the_number(
    web: WebClient,
) -> None:
    fail_a_job(web, "first")
    (listed,) = web.client.get("/api/events", headers=web.admin).json["events"]
    with listen(web, "/api/stream?after=0") as answer:
        event = next(events(answer))
    assert (json.loads(event["data"]), event["id"]) == (listed, str(listed["number"]))


@pytest.mark.parametrize("how", ["header", "query"])
def test_a_stream_continues_after_a_given_position(web: WebClient, how: str) -> None:
    refs = [fail_a_job(web, name) for name in ("first", "second", "third")]
    after = str(web.services.events.after()[0]["id"])
    answer = (
        listen(web, **{"Last-Event-ID": after})
        if how == "header"
        else listen(web, f"/api/stream?after={after}")
    )
    with answer:
        found = events(answer)
        assert [refs[1] in next(found)["data"], refs[2] in next(found)["data"]] == [True, True]


@pytest.mark.parametrize("wrong", ["-1", "x", "9" * 19, "1.5", "٣"])
def test_an_invalid_position_is_refused(web: WebClient, wrong: str) -> None:
    assert listen(web, f"/api/stream?after={wrong}").status_code == 400
    if wrong.isascii():
        assert listen(web, **{"Last-Event-ID": wrong}).status_code == 400


def test_a_silent_stream_sends_comments_to_keep_the_connection_open(
    web: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_api, "HEARTBEAT", 0.002)
    with listen(web) as answer:
        blocks = answer.response
        assert [next(blocks)[:6], next(blocks)] == [b"retry:", b": still here\n\n"]


def test_the_number_of_streams_is_limited_and_a_closed_one_frees_its_slot(web: WebClient) -> None:
    answers = [listen(web) for _ in range(events_api.MAX_STREAMS)]
    refused = listen(web)
    assert (refused.status_code, refused.headers["Retry-After"], refused.content_type) == (
        503,
        "15",
        "application/problem+json",
    )
    answers.pop().close()
    with listen(web) as another:
        assert another.status_code == 200
    for answer in answers:
        answer.close()
    with web.client.head("/api/stream", headers=web.admin) as head:
        assert head.status_code == 200, "a HEAD request occupies no slot"
    for _ in range(events_api.MAX_STREAMS + 1):
        with listen(web) as answer:
            assert answer.status_code == 200


def test_a_stream_ends_after_its_maximum_duration_or_when_the_process_stops(
    web: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_api, "MAX_DURATION", 0.005)
    with listen(web) as answer:
        assert list(events(answer)) == []
    monkeypatch.setattr(events_api, "MAX_DURATION", 10_000.0)
    state.stops_when(web.client.application, lambda: True)
    with listen(web) as answer:
        assert list(events(answer)) == []


def test_a_stream_ends_when_the_client_hangs_up(
    web: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Connection:
        """A connection whose other end is closed."""

        def recv(self, _size: int, _flags: int) -> bytes:
            return b""

    monkeypatch.setattr(events_api, "MAX_DURATION", 10_000.0)
    answer = web.client.get(
        "/api/stream",
        headers=web.admin,
        buffered=False,
        environ_overrides={"gunicorn.socket": Connection()},
    )
    with answer:
        assert list(events(answer)) == []


def test_a_stream_waits_for_a_ledger_that_is_away(web: WebClient) -> None:
    path = web.services.settings.ledger_path
    with listen(web) as answer:
        found = events(answer)
        web.services.database.close()
        path.rename(path.with_name("away"))
        path.mkdir()
        next(answer.response)
        path.rmdir()
        path.with_name("away").rename(path)
        ref = fail_a_job(web, "after")
        assert ref in next(found)["data"]
