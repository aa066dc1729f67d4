"""Delivery of events: what is sent, how it is signed, and which destinations there are."""

from contextlib import closing
from pathlib import Path

from commands import invoke
from event_dispatching import dispatch_due, dispatcher_to
from event_server import OLD_SECRET, SECRET, EventServer
from ledgers import LedgerHarness, opened

from receiver.events.event import Event, EventSerializer
from receiver.installation import version
from receiver.ledger.event_queue import JOB_WEBHOOKS
from receiver.ledger.outbox import Outbox
from receiver.model import EventType
from receiver.services import Services
from receiver.settings import Settings

# What is sent.


def test_an_archived_picture_is_delivered_with_every_field(
    ledger: LedgerHarness, event_server: EventServer
) -> None:
    events_dispatcher = dispatcher_to(event_server, ledger, public_url="https://pictures.example")
    ref = ledger.archived()
    dispatch_due(events_dispatcher)
    received, end = event_server.received
    assert received.path == "/hook"
    assert received.headers["content-type"] == "application/json"
    assert received.event == {
        "id": f"{ref}-0-asset-archived-0",
        "number": 1,
        "type": "asset.archived",
        "timestamp": "2027-01-15T08:00:00.000Z",
        "receiver_version": version(),
        "data": {
            "ref": ref,
            "index": 0,
            "key": f"{ref}/0.png",
            "bucket": "pictures",
            "url": f"s3://pictures/home/{ref}/0.png",
            "sha256": "0" * 64,
            "size": 1000,
            "content_type": "image/png",
            "width": 1024,
            "height": 768,
            "job_key": None,
            "link": f"https://pictures.example/api/jobs/{ref}/assets/0",
        },
    }
    assert (end.event["type"], end.event["data"]["state"], end.event["data"]["link"]) == (
        "job.archived",
        "archived",
        f"https://pictures.example/api/jobs/{ref}",
    )


def test_every_type_of_event_is_delivered(ledger: LedgerHarness, event_server: EventServer) -> None:
    events_dispatcher = dispatcher_to(event_server, ledger)
    ledger.archived(1, "task-1")
    ledger.failed("task-2")
    ledger.expired("task-3")
    ledger.archiving(1, "task-4")
    ledger.clock.advance(7000)
    (claimed,) = ledger.jobs.claim(1)
    ledger.jobs.announce_risk(claimed, "soon")
    dispatch_due(events_dispatcher)
    assert set(event_server.types()) == set(EventType)


def test_a_directory_has_no_bucket_and_without_a_public_url_there_is_no_link() -> None:
    event = Event(1, EventType.ASSET_ARCHIVED, "REF", 0, 0, 0.0, {"key": "a/0.png"})
    assert EventSerializer("file:///data/archive", None).object(event)["data"] == {
        "key": "a/0.png",
        "bucket": None,
        "url": "file:///data/archive/a/0.png",
        "link": None,
    }


def test_each_of_our_secrets_signs_so_that_they_can_be_rotated(
    ledger: LedgerHarness, event_server: EventServer
) -> None:
    events_dispatcher = dispatcher_to(event_server, ledger, secrets=(SECRET, OLD_SECRET))
    ledger.failed()
    dispatch_due(events_dispatcher)
    (received,) = event_server.received
    assert received.is_signed_by(SECRET)
    assert received.is_signed_by(OLD_SECRET)
    assert not received.is_signed_by("whsec_" + "A" * 32)
    assert received.headers["webhook-timestamp"] == str(int(ledger.clock()))


# In the service.


def test_the_service_has_a_work_queue_for_each_destination(sqlite_url: str, tmp_path: Path) -> None:
    environ = {"DATA_DIR": str(tmp_path), "DATABASE_URL": sqlite_url}
    with closing(Services(Settings.load(environ)).open()) as services:
        assert [
            queue.name
            for queue in services.work_queues(services.settings.data_dir)
            if "events" in queue.name
        ] == []
        assert services.events.destinations() == []
    environ |= {"EVENT_URLS": "log:#job.failed,https://hooks.example/", "EVENT_SECRET": SECRET}
    with closing(Services(Settings.load(environ)).open()) as services:
        names = [destination.name for destination in services.settings.destinations]
        assert [
            queue.name
            for queue in services.work_queues(services.settings.data_dir)
            if "events" in queue.name
        ] == [f"events to {name}" for name in [*names, JOB_WEBHOOKS]]
        assert sorted(
            standing.destination for standing in services.events.destinations()
        ) == sorted(names)


def test_the_command_deletes_a_destination_that_is_no_longer_configured(
    sqlite_url: str, tmp_path: Path
) -> None:
    environ = {"DATA_DIR": str(tmp_path), "DATABASE_URL": sqlite_url, "EVENT_URLS": "log:"}
    with opened(sqlite_url) as ledger:
        Outbox(ledger.database, ledger.clock).register(["log:", "gone"])
        ledger.failed()
    shown = invoke(["receiver", "events"], environ, folder=tmp_path)
    (gone,) = [line for line in shown.out.splitlines() if line.startswith("destination\tgone")]
    assert gone.split("\t")[3:5] == ["1", "0"]
    for name, why in (
        ("log:", "log: is in EVENT_URLS"),
        ("went", "no destination 'went'; known are: gone, log:"),
    ):
        refused = invoke(["receiver", "events", "--forget", name], environ, folder=tmp_path)
        assert (refused.status, refused.out, why in refused.err) == (1, "", True), refused
    done = invoke(["receiver", "events", "--forget", "gone"], environ, folder=tmp_path)
    assert (done.status, done.out) == (
        0,
        "gone is deleted, with its undelivered events\n",
    ), done
    assert "\tgone" not in invoke(["receiver", "events"], environ, folder=tmp_path).out
