"""The stream of events: what is new as it comes, from where one left off, to few at a time."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from web_client import FAILED, WebClient

from receiver.model import Submission
from receiver.web import state
from receiver.web.api import live_events


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_events, "LOOK", 0.001)


def happen(web: WebClient, name: str) -> str:
    """Have a job fail, which is an event; return its ref."""
    ref = web.services.ledger.submit(
        Submission("a fox", "gpt-image-1.5", {}), "https://provider.test"
    ).ref
    web.callback(web.services.tickets.sign(ref), {**FAILED, "id": name})
    return ref


def listen(web: WebClient, path: str = "/api/stream", **headers: str) -> Any:
    return web.client.get(path, headers={**web.admin, **headers}, buffered=False)


def events(answer: Any) -> Iterator[dict[str, str]]:
    """Read the stream as a browser does; comments and what is no event are passed over."""
    for block in answer.response:
        lines = [
            line.partition(": ")
            for line in block.decode().strip().splitlines()
            if not line.startswith((":", "retry"))
        ]
        if lines:
            yield {name: value for name, _, value in lines}


def test_events_are_told_as_they_come_and_only_new_ones(web: WebClient) -> None:
    happen(web, "before")
    with listen(web) as answer:
        assert answer.content_type == "text/event-stream; charset=utf-8"
        assert (answer.headers["Cache-Control"], answer.headers["X-Accel-Buffering"]) == (
            "no-store",
            "no",
        )
        told = events(answer)
        refs = [happen(web, "first"), happen(web, "second")]
        for ref in refs:
            event = next(told)
            assert (event["event"], ref in event["data"], event["id"].isdigit()) == (
                "job.failed",
                True,
                True,
            )


def test_an_event_is_told_in_the_words_of_the_list_and_its_place_is_its_number(
    web: WebClient,
) -> None:
    happen(web, "first")
    (listed,) = web.client.get("/api/events", headers=web.admin).json["events"]
    with listen(web, "/api/stream?after=0") as answer:
        event = next(events(answer))
    assert (json.loads(event["data"]), event["id"]) == (listed, str(listed["number"]))


@pytest.mark.parametrize("how", ["header", "query"])
def test_who_says_where_it_was_misses_nothing(web: WebClient, how: str) -> None:
    refs = [happen(web, name) for name in ("first", "second", "third")]
    after = str(web.services.queries.events()[0]["id"])
    answer = (
        listen(web, **{"Last-Event-ID": after})
        if how == "header"
        else listen(web, f"/api/stream?after={after}")
    )
    with answer:
        told = events(answer)
        assert [refs[1] in next(told)["data"], refs[2] in next(told)["data"]] == [True, True]


@pytest.mark.parametrize("wrong", ["-1", "x", "9" * 19, "1.5", "٣"])
def test_a_place_that_is_none_is_refused(web: WebClient, wrong: str) -> None:
    assert listen(web, f"/api/stream?after={wrong}").status_code == 400
    if wrong.isascii():
        assert listen(web, **{"Last-Event-ID": wrong}).status_code == 400


def test_silence_is_broken_so_that_nobody_takes_the_connection_for_dead(
    web: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_events, "HEARTBEAT", 0.002)
    with listen(web) as answer:
        blocks = answer.response
        assert [next(blocks)[:6], next(blocks)] == [b"retry:", b": still here\n\n"]


def test_few_listen_at_a_time_and_a_place_is_given_back(web: WebClient) -> None:
    answers = [listen(web) for _ in range(live_events.MOST)]
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
    with web.client.head("/api/stream", headers=web.admin) as told:
        assert told.status_code == 200, "who asks for the head only keeps no place either"
    for _ in range(live_events.MOST + 1):
        with listen(web) as answer:
            assert answer.status_code == 200


def test_a_listener_is_sent_away_after_a_while_or_when_the_process_stops(
    web: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_events, "LONGEST", 0.005)
    with listen(web) as answer:
        assert list(events(answer)) == []
    monkeypatch.setattr(live_events, "LONGEST", 10_000.0)
    state.stops_when(web.client.application, lambda: True)
    with listen(web) as answer:
        assert list(events(answer)) == []


def test_a_listener_that_hung_up_gives_its_place_back_at_once(
    web: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Connection:
        """A connection whose other end is closed."""

        def recv(self, _size: int, _flags: int) -> bytes:
            return b""

    monkeypatch.setattr(live_events, "LONGEST", 10_000.0)
    answer = web.client.get(
        "/api/stream",
        headers=web.admin,
        buffered=False,
        environ_overrides={"gunicorn.socket": Connection()},
    )
    with answer:
        assert list(events(answer)) == []


def test_a_ledger_that_is_away_is_waited_for(web: WebClient) -> None:
    path = web.services.settings.ledger_path
    with listen(web) as answer:
        told = events(answer)
        web.services.database.close()
        path.rename(path.with_name("away"))
        path.mkdir()
        next(answer.response)
        path.rmdir()
        path.with_name("away").rename(path)
        ref = happen(web, "after")
        assert ref in next(told)["data"]
