"""What is known of each destination of events; test events; and sending at once what waits."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from commands import invoke
from event_dispatching import dispatch_due, dispatcher_to, make_dispatcher
from event_server import SECRET, EventServer
from ledgers import LedgerHarness, opened

from receiver import clock
from receiver.errors import ReceiverError
from receiver.events.dispatcher import RETRY_FOR
from receiver.ledger.outbox import Outbox
from receiver.ledger.queries import events as queries
from receiver.ledger.queries.events import DestinationStatus, Recent

DAY = 86400.0


def status(ledger: LedgerHarness) -> DestinationStatus:
    (found,) = ledger.events.destinations()
    return found


# What is known.


@pytest.mark.both_databases
def test_failing_deliveries_are_counted_with_their_error_and_the_true_age_of_the_oldest(
    ledger: LedgerHarness, event_server: EventServer
) -> None:
    event_server.status = 500
    dispatcher = dispatcher_to(event_server, ledger)
    began = ledger.clock()
    for number in range(3):
        ledger.failed(f"task-{number}")
        ledger.clock.advance(10)
    for _ in range(4):
        dispatch_due(dispatcher)
        ledger.clock.advance(3600)
    found = status(ledger)
    assert (found.waiting, found.failing, found.set_aside) == (3, 3, 0)
    assert (found.oldest_at, found.attempts) == (began, 4), "not when it is due next"
    assert "answered 500" in found.last_error
    assert found.recent == Recent(tried=3, delivered=0)
    names = [found.destination]
    assert ledger.events.count_failing(names, 2) == 2
    assert [row.happened_at for row in ledger.events.failing(names)] == [
        began,
        began + 10,
        began + 20,
    ]
    assert ledger.events.failing(["another"]) == []

    event_server.status = 204
    ledger.clock.advance(3600)
    dispatch_due(dispatcher)
    found = status(ledger)
    assert (found.waiting, found.failing, found.oldest_at, found.last_error) == (0, 0, None, "")
    assert found.recent.success_rate == 1.0


@pytest.mark.both_databases
def test_events_that_were_never_tried_have_an_age_and_no_error(ledger: LedgerHarness) -> None:
    dispatcher = make_dispatcher(ledger, "log:")
    began = ledger.clock()
    ledger.failed("task-1")
    ledger.clock.advance(60)
    assert (status(ledger).not_handed, status(ledger).oldest_at) == (1, began)
    assert status(ledger).recent.success_rate is None
    dispatcher.claim(1)  # and the worker dies
    assert (status(ledger).waiting, status(ledger).failing, status(ledger).oldest_at) == (
        1,
        0,
        began,
    )


def test_the_last_error_is_that_of_what_was_set_aside_if_nothing_fails_now(
    ledger: LedgerHarness, event_server: EventServer
) -> None:
    event_server.status = 410
    dispatcher = dispatcher_to(event_server, ledger)
    ledger.failed()
    dispatch_due(dispatcher)
    ledger.clock.advance(RETRY_FOR + 1)
    dispatch_due(dispatcher)
    found = status(ledger)
    assert (found.failing, found.set_aside, found.oldest_at) == (0, 1, None)
    assert "answered 410" in found.last_error
    Outbox(ledger.database, ledger.clock).resend(1)
    assert status(ledger).failing == 0, "it is sent again, and has not failed again yet"


def test_the_success_rate_is_that_of_the_newest_deliveries(
    ledger: LedgerHarness, event_server: EventServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "RECENT", 4)
    dispatcher = dispatcher_to(event_server, ledger)
    event_server.statuses = [400, 400, 204, 204, 400, 204]
    for number in range(6):
        ledger.failed(f"task-{number}")
        dispatch_due(dispatcher, rounds=1)
    assert status(ledger).recent == Recent(tried=4, delivered=3)


# Sending at once.


@pytest.mark.both_databases
def test_what_waits_is_sent_at_once_on_request_in_spite_of_the_pause(
    ledger: LedgerHarness, event_server: EventServer
) -> None:
    event_server.status = 503
    dispatcher = dispatcher_to(event_server, ledger)
    refs = [ledger.archived(1, f"task-{number}") for number in range(3)]
    for _ in range(6):
        dispatch_due(dispatcher, rounds=1)
        ledger.clock.advance(60)
    dispatch_due(dispatcher, rounds=1)
    event_server.status = 204
    event_server.received.clear()
    ledger.clock.advance(1)
    assert dispatcher.claim(10) == [], "it is paused"
    outbox = Outbox(ledger.database, ledger.clock)
    assert outbox.expedite(dispatcher.destination.name) == 3
    assert (dispatcher.next_due() or 0.0) <= ledger.clock()
    dispatch_due(dispatcher)
    for ref in refs:
        assert event_server.types(ref) == ["asset.archived", "job.archived"], "in their order"
    with pytest.raises(ReceiverError, match="there is no destination 'gone'"):
        outbox.expedite("gone")


# Test events.


def test_a_test_event_is_signed_like_every_other_and_changes_nothing(
    ledger: LedgerHarness, event_server: EventServer
) -> None:
    dispatcher = dispatcher_to(event_server, ledger, public_url="https://pictures.example.com")
    before = ledger.everything()
    answer = dispatcher.send_test()
    assert (answer.accepted, answer.text) == (True, "204")
    (received,) = event_server.received
    assert received.is_signed_by(SECRET)
    event = received.event
    assert (event["type"], event["number"], event["data"]["link"]) == ("receiver.test", 0, None)
    assert ledger.everything() == before
    event_server.status = 401
    answer = dispatcher.send_test()
    assert not answer.accepted
    assert "answered 401" in answer.text
    assert len({one.id for one in event_server.received}) == 2


def test_a_test_event_does_not_reach_inside_addresses(ledger: LedgerHarness) -> None:
    answer = make_dispatcher(ledger, "http://127.0.0.1:9/hook").send_test()
    assert not answer.accepted
    assert "127.0.0.1" in answer.text


# The commands and the doctor.


@pytest.fixture
def environ(sqlite_url: str, tmp_path: Path, event_server: EventServer) -> dict[str, str]:
    """Configure one webhook, with two events that it refuses."""
    found = {
        "DATA_DIR": str(tmp_path),
        "DATABASE_URL": sqlite_url,
        "EVENT_URLS": f"{event_server.url},log:",
        "EVENT_SECRET": SECRET,
        "FETCH_ALLOW": event_server.address,
        "GRSAI_BASE_URL": "http://127.0.0.1:1",
    }
    with opened(sqlite_url) as ledger:
        event_server.status = 500
        dispatcher = dispatcher_to(event_server, ledger)
        ledger.clock.now = clock.now() - 3 * DAY
        ledger.failed("task-1")
        ledger.failed("task-2")
        ledger.clock.now = clock.now()
        dispatch_due(dispatcher, rounds=1)
    return found


def run(command: Sequence[str], environ: dict[str, str], folder: Path) -> tuple[int, str]:
    done = invoke(["receiver", *command], environ, folder=folder)
    return done.status, done.out + done.err


def test_the_commands_show_errors_and_ages_and_send_a_test_event(
    environ: dict[str, str], tmp_path: Path, event_server: EventServer
) -> None:
    status, shown = run(["events"], environ, tmp_path)
    assert status == 0
    for said in ("3 days", "answered 500", "(attempt 1)", "0.0 %"):
        assert said in shown
    refused = run(["events", "--test", "127.0.0.1"], environ, tmp_path)
    assert (refused[0], "not accepted after" in refused[1], "answered 500" in refused[1]) == (
        1,
        True,
        True,
    )
    event_server.status = 204
    assert "accepted after" in run(["events", "--test", "127.0.0.1"], environ, tmp_path)[1]
    assert run(["events", "--test", "nowhere"], environ, tmp_path)[0] == 1
    assert (
        "use --forget or --test"
        in run(["events", "--test", "a", "--forget", "b"], environ, tmp_path)[1]
    )
    status, shown = run(["resend", "--waiting"], environ, tmp_path)
    assert (status, "2 more deliveries to http://127.0.0.1" in shown) == (0, True), shown
    assert run(["resend", "--waiting", "--all"], environ, tmp_path)[0] == 2


def test_the_doctor_reports_failing_deliveries_and_refused_addresses(
    environ: dict[str, str], tmp_path: Path
) -> None:
    status, shown = run(["doctor"], environ, tmp_path)
    assert status == 1
    assert "2 deliveries fail, the oldest is 3 days old, attempt 1: 127.0.0.1" in shown.replace(
        "\n", " "
    )
    shown = run(["doctor"], {**environ, "FETCH_ALLOW": ""}, tmp_path)[1]
    assert "receiver events --test" in shown
    assert "to FETCH_ALLOW" in shown
