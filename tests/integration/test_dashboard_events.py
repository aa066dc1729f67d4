"""The pages about events, the service and the first steps: what they say, and what they do."""

from collections.abc import Iterator
from datetime import timedelta, timezone
from pathlib import Path

import pytest
from dashboard_client import HOSTILE, log_in, post, reported, submitted
from event_dispatching import dispatch_due
from event_server import SECRET, EventServer
from waiting import until
from web_client import FAILED, WebClient, web_client

from receiver.doctor.examine import Finding, Status
from receiver.model import Provider
from receiver.web.dashboard import events as events_page
from receiver.web.spending import MOST_ZONES, ByZone


@pytest.fixture
def web_with_events(tmp_path: Path, event_server: EventServer) -> Iterator[WebClient]:
    """Serve the web with one destination, which refuses one event."""
    environ = {
        "EVENT_URLS": event_server.url,
        "EVENT_SECRET": SECRET,
        "FETCH_ALLOW": event_server.address,
    }
    with web_client(tmp_path, environ) as web:
        log_in(web)
        dispatcher, _ = web.services.dispatchers()
        web.services.outbox.register([dispatcher.destination.name])
        event_server.status = 500
        reported(web, FAILED)
        dispatch_due(dispatcher, rounds=1)
        yield web


def name_of(web: WebClient) -> str:
    return web.services.settings.destinations[0].name


def test_a_failing_delivery_is_an_alarm_on_every_page_and_not_called_delivered(
    web_with_events: WebClient,
) -> None:
    for path in ("/jobs", "/set-aside", "/events"):
        assert 'class="alarm" href="/events"' in web_with_events.client.get(path).text, path
    aside = web_with_events.client.get("/set-aside").text
    assert "Event deliveries that fail and are tried again: 1" in aside
    assert "events were delivered" not in aside
    page = web_with_events.client.get("/events").text
    assert ("answered 500" in page, "job.failed" in page, "0.0 %" in page) == (True, True, True)


def test_a_test_event_shows_the_answer_and_one_at_a_time_is_sent(
    web_with_events: WebClient, event_server: EventServer
) -> None:
    name = name_of(web_with_events)
    refused = post(web_with_events, "/events/test", destination=name).text
    assert "did not accept the test event" in refused
    event_server.status = 200
    assert "accepted the test event" in post(web_with_events, "/events/test", destination=name).text
    assert event_server.types().count("receiver.test") == 2
    assert web_with_events.client.get("/events/test").headers["Location"] == "/events"
    unknown = post(web_with_events, "/events/test", destination=HOSTILE)
    assert (unknown.status_code, "<script>alert" in unknown.text) == (409, False)
    with events_page._tests:
        busy = post(web_with_events, "/events/test", destination=name)
    assert (busy.status_code, "Another test event is being sent" in busy.text) == (503, True)


def test_what_waits_is_due_at_once(web_with_events: WebClient) -> None:
    name = name_of(web_with_events)
    answer = post(web_with_events, "/events/expedite", destination=name)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/events?notice=due")
    outbox = web_with_events.services.outbox
    assert (outbox.next_due(name) or 0.0) <= web_with_events.services.now()
    assert post(web_with_events, "/events/expedite", destination="nowhere").status_code == 409


def test_the_first_steps_are_shown_until_there_is_a_picture(logged_in: WebClient) -> None:
    page = logged_in.client.get("/").text
    assert 'class="step' in page
    assert page.count('class="step done"') == 0
    assert "/callback</code>" in page
    reported(logged_in, FAILED)
    steps = logged_in.client.get("/first-steps", headers={"HX-Request": "true"}).text
    assert 'class="step done"' in steps
    assert "<html" not in steps


def test_the_service_page_masks_secrets(logged_in: WebClient) -> None:
    page = logged_in.client.get("/service").text
    for secret in logged_in.services.settings.secrets():
        assert secret not in page
    assert ("Settings in force" in page, "FETCH_MAX_BYTES" in page) == (True, True)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_service_page_names_every_check(
    logged_in: WebClient, monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    monkeypatch.setattr(
        "receiver.web.dashboard.service.examine",
        lambda _: [Finding(one.value, Status.OK, "well") for one in Provider],
    )
    logged_in.client.set_cookie("language", language)
    until(lambda: "well</p>" in logged_in.client.get("/service").text, what="the doctor's findings")
    page = logged_in.client.get("/service").text
    assert [one for one in Provider if f"<b>{one}</b>" not in page] == []


def test_costs_without_prices_say_which_models_have_none(logged_in: WebClient) -> None:
    submitted(logged_in)
    page = logged_in.client.get("/costs").text
    assert "No price is known of: gpt-image-1.5" in page
    assert "PRICES=gpt-image-1.5=0.02" in page


@pytest.mark.parametrize(
    ("given", "shown"),
    [("Asia/Kolkata", "Asia/Kolkata"), ("../x", "UTC"), ("", "UTC"), ("No/Zone", "UTC")],
)
def test_days_of_costs_and_charts_are_those_of_the_readers_zone(
    logged_in: WebClient, given: str, shown: str
) -> None:
    submitted(logged_in)
    logged_in.client.set_cookie("zone", given)
    assert f"(time zone {shown})" in logged_in.client.get("/costs").text
    name = "IST" if shown != "UTC" else "UTC"
    until(lambda: f":00 {name}" in logged_in.client.get("/charts?span=last_day").text)


def test_values_of_very_many_zones_are_not_kept() -> None:
    values = ByZone("numbers", str)
    for hours in range(-23, 24):
        assert values.get(timezone(timedelta(hours=hours))) is not None
    assert len(values._values) <= MOST_ZONES
