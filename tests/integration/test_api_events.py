"""Events and the audit from the API."""

import json
from pathlib import Path

import pytest
from api_jobs import archived, change_ledger, get, reported, submitted
from web_client import FAILED, WebClient

from receiver.events.listen import EventReader

# Events and the audit.


@pytest.mark.parametrize("after", ["-1", "x", "", "1.5", "9" * 5000])
def test_after_must_be_a_number(web: WebClient, after: str) -> None:
    assert get(web, f"/api/events?after={after}").status_code == 400


def test_events_are_listed_in_order_and_after_any_of_them(web: WebClient, tmp_path: Path) -> None:
    ref = archived(web, tmp_path)
    lost = reported(web, {**FAILED, "id": "task-2"})
    found = get(web, "/api/events").json
    events = found["events"]
    assert [(event["type"], event["data"]["ref"]) for event in events] == [
        ("asset.archived", ref),
        ("job.archived", ref),
        ("job.failed", lost),
    ]
    assert found["next"] == events[-1]["number"]
    assert [
        event["type"]
        for event in get(web, f"/api/events?after={events[1]['number']}").json["events"]
    ] == ["job.failed"]
    assert get(web, f"/api/events?after={'9' * 18}").json == {"events": [], "next": None}


def test_an_event_is_the_same_as_in_webhooks_and_in_listen(web: WebClient, tmp_path: Path) -> None:
    ref = archived(web, tmp_path)
    reported(web, {**FAILED, "id": "task-2"})
    found = get(web, "/api/events").json["events"]
    listened = EventReader(web.services.events, []).events(0, follow=False)
    assert found == [
        json.loads(web.services.serializer.body(event)) for event, _ in listened if event
    ]
    assert [(event["id"], event["number"]) for event in found[:2]] == [
        (f"{ref}-0-asset-archived-0", 1),
        (f"{ref}-job-job-archived-0", 2),
    ]
    assert found[0]["data"]["url"] == f"{web.services.settings.archive_url}/2026/10/01/{ref}/0.png"


def test_the_audit_shows_the_counts_and_names_a_broken_invariant(
    web: WebClient, tmp_path: Path
) -> None:
    refs = [archived(web, tmp_path), reported(web, {**FAILED, "id": "task-2"}), submitted(web)]
    counts = {
        "submitted": 3,
        "archived": 1,
        "failed": 1,
        "expired": 0,
        "in_flight": 1,
        "difference": 0,
    }
    assert get(web, "/api/audit").json == {"ok": True, "broken": {}, **counts}
    change_ledger(web, "DELETE FROM events WHERE type = 'job.failed'")
    found = get(web, "/api/audit").json
    assert (found["ok"], found["difference"], found["failed"]) == (False, 1, 0)
    assert found["broken"] == {"every end is announced by its event": [refs[1]]}
    assert get(web, "/api/audit?whole=1").json == found
    assert get(web, "/api/audit?whole=perhaps").status_code == 400
