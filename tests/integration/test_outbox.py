"""Delivery of events: signed, in order, not given up early; a slow destination delays no other."""

import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from commands import invoke
from event_dispatching import PostServer, dispatch_due, last_error, make_dispatcher
from event_server import OLD_SECRET, SECRET, EventServer
from ledgers import Books, opened
from outside_network import (
    Script,
    ScriptedServer,
    answer,
    certificate,
    drip,
    redirect,
    send,
    silence,
)
from waiting import LIMIT, until

from receiver.errors import EventNotDeliveredError
from receiver.events import dispatcher, transports
from receiver.events.dispatcher import RETRY_DELAYS, Dispatcher
from receiver.events.event import Event, EventSerializer
from receiver.events.transports import WebhookTransport
from receiver.ledger.outbox import Outbox
from receiver.model import EventType
from receiver.net.connection import SafeConnector
from receiver.net.policy import AddressPolicy
from receiver.services import Services
from receiver.settings import Settings
from receiver.worker.embedded import EmbeddedEngine
from receiver.worker.engine import WorkQueue
from receiver.worker.notifier import Notifier


@pytest.fixture
def books(sqlite_url: str) -> Iterator[Books]:
    with opened(sqlite_url) as books:
        yield books


@pytest.fixture
def event_server() -> Iterator[EventServer]:
    with EventServer() as event_server:
        yield event_server


def dispatcher_to(
    event_server: EventServer,
    books: Books,
    *,
    secrets: Sequence[str] = (SECRET,),
    public_url: str | None = None,
) -> Dispatcher:
    return make_dispatcher(
        books, event_server.url, allow=event_server.address, secrets=secrets, public_url=public_url
    )


# What is sent.


def test_an_archived_picture_is_delivered_with_all_a_pipeline_needs(
    books: Books, event_server: EventServer
) -> None:
    events_dispatcher = dispatcher_to(event_server, books, public_url="https://pictures.example")
    ref = books.archived()
    dispatch_due(events_dispatcher)
    received, end = event_server.received
    assert received.path == "/hook"
    assert received.headers["content-type"] == "application/json"
    assert received.event == {
        "id": f"{ref}-0-asset-archived-0",
        "number": 1,
        "type": "asset.archived",
        "timestamp": "2027-01-15T08:00:00.000Z",
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


def test_every_type_of_event_is_delivered(books: Books, event_server: EventServer) -> None:
    events_dispatcher = dispatcher_to(event_server, books)
    books.archived(1, "task-1")
    books.failed("task-2")
    books.expired("task-3")
    books.archiving(1, "task-4")
    books.clock.advance(7000)
    (claimed,) = books.jobs.claim(1)
    books.jobs.announce_risk(claimed, "soon")
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
    books: Books, event_server: EventServer
) -> None:
    events_dispatcher = dispatcher_to(event_server, books, secrets=(SECRET, OLD_SECRET))
    books.failed()
    dispatch_due(events_dispatcher)
    (received,) = event_server.received
    assert received.is_signed_by(SECRET)
    assert received.is_signed_by(OLD_SECRET)
    assert not received.is_signed_by("whsec_" + "A" * 32)
    assert received.headers["webhook-timestamp"] == str(int(books.clock()))


# Until it is taken.


def test_an_event_keeps_its_id_and_body_through_all_attempts_and_its_job_waits(
    books: Books, event_server: EventServer
) -> None:
    event_server.statuses = [400, 404, 410, 201]
    events_dispatcher = dispatcher_to(event_server, books)
    ref = books.archived()
    for _ in range(4):
        dispatch_due(events_dispatcher)
        books.clock.advance(1.3 * RETRY_DELAYS[-1])
    dispatch_due(events_dispatcher)
    assert event_server.types(ref) == ["asset.archived"] * 4 + ["job.archived"]
    assert (
        len({received.id for received in event_server.received[:4]})
        == len({received.body for received in event_server.received[:4]})
        == 1
    )
    assert (
        len({received.headers["webhook-timestamp"] for received in event_server.received[:4]}) == 4
    )
    assert all(received.is_signed_by(SECRET) for received in event_server.received)


def test_the_pauses_grow_and_after_its_time_the_event_is_set_aside_and_the_next_one_sent(
    books: Books, event_server: EventServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        dispatcher, "RETRY_FOR", 5 * 3600.0
    )  # three days would only be more of the same
    event_server.status = 422
    events_dispatcher, ref = dispatcher_to(event_server, books), books.archived()
    began, pauses = books.clock(), []
    while len(set(event_server.types())) == 1 or not event_server.received:
        dispatch_due(events_dispatcher, rounds=1)
        due = events_dispatcher.next_due()
        assert due is not None
        pauses.append(due - books.clock())
        books.clock.now = max(due, books.clock())
    assert books.clock() - began == pytest.approx(dispatcher.RETRY_FOR, abs=1.3 * RETRY_DELAYS[0])
    for pause, meant in zip(pauses, RETRY_DELAYS, strict=False):
        assert 0.75 * meant <= pause <= 1.25 * meant
    (row,) = books.events.set_aside()
    assert (row.ref, row.attempts) == (ref, event_server.types().count("asset.archived"))
    assert row.error == "127.0.0.1 answered 422"
    assert event_server.types()[-1] == "job.archived"


@pytest.mark.parametrize(
    ("retry_after", "pause"), [("120", 120), ("999999", 3600), ("-1", 0), ("soon", 0), ("1e9", 0)]
)
def test_a_destination_may_ask_for_more_time_within_reason(
    books: Books, event_server: EventServer, retry_after: str, pause: float
) -> None:
    event_server.status, event_server.headers = 429, {"Retry-After": retry_after}
    events_dispatcher = dispatcher_to(event_server, books)
    books.failed()
    dispatch_due(events_dispatcher, rounds=1)
    assert (events_dispatcher.next_due() or 0) - books.clock() == pytest.approx(
        max(pause, 5.0), rel=0.25
    )


def test_the_pauses_for_an_unreachable_destination_grow_and_it_gets_all_when_it_is_back(
    books: Books,
) -> None:
    transport = UnreliableTransport()
    events_dispatcher = make_dispatcher(books, "log:")
    events_dispatcher._transport = transport
    refs = [books.failed(f"task-{number}") for number in range(30)]
    pauses = []
    for _ in range(10):
        for claimed in events_dispatcher.claim(1):
            events_dispatcher.send(claimed)
        due = events_dispatcher.next_due() or 0.0
        pauses.append(due - books.clock())
        books.clock.now = max(due, books.clock())
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    transport.away = False
    for _ in range(10):
        books.clock.advance(RETRY_DELAYS[-1] * 1.3)
        dispatch_due(events_dispatcher, rounds=4)
    assert sorted(transport.received) == sorted(refs)


class UnreliableTransport:
    """A way that leads nowhere while it is ``away``."""

    def __init__(self) -> None:
        self.away = True
        self.received: list[str] = []

    def send(self, event: Event, _body: str) -> None:
        """Take the event, or not."""
        if self.away:
            raise EventNotDeliveredError("gone", away=True)
        self.received.append(event.ref)


@pytest.mark.parametrize(
    ("script", "limits", "error"),
    [
        (send(b""), (20, 20), "closed connection without response"),
        (send(b"HTTP/1.1 2"), (20, 20), "broken HTTP answer"),
        (send(b"nonsense\r\n\r\n"), (20, 20), "broken HTTP answer"),
        (
            send(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"),
            (20, 20),
            "broken HTTP answer",
        ),
        (send(b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000), (20, 20), "more than"),
        (silence(), (20, 0.2), "no data for 0.2 s"),
        (drip(b"HTTP/1.1 200 OK\r\nX: ", 0.05), (0.4, 20), "not finished within 0.4 s"),
    ],
    ids=[
        "nothing",
        "half a line",
        "no HTTP",
        "endless headers",
        "endless continues",
        "silence",
        "drip",
    ],
)
def test_no_answer_is_read_for_long_and_a_broken_one_is_no_success(
    books: Books,
    monkeypatch: pytest.MonkeyPatch,
    script: Script,
    limits: tuple[float, float],
    error: str,
) -> None:
    monkeypatch.setattr(transports, "TIMEOUT", limits[0])
    monkeypatch.setattr(transports, "READ_TIMEOUT", limits[1])
    server = PostServer((script,))
    try:
        events_dispatcher = make_dispatcher(
            books, f"http://127.0.0.1:{server.port}/", allow=f"127.0.0.1:{server.port}"
        )
        books.failed()
        (claimed,) = events_dispatcher.claim(1)
        events_dispatcher.send(claimed)
    finally:
        server.close()
    assert error in last_error(books)
    assert server.connections == 1


# Where it may go.


def test_a_redirect_is_not_followed(books: Books, event_server: EventServer) -> None:
    server = PostServer((redirect(event_server.url, 307),))
    try:
        events_dispatcher = make_dispatcher(
            books, f"http://127.0.0.1:{server.port}/", allow=f"127.0.0.1:{server.port}"
        )
        books.failed()
        dispatch_due(events_dispatcher, rounds=1)
    finally:
        server.close()
    assert (
        last_error(books)
        == "127.0.0.1 answered 307; redirects are not followed, name the last address in EVENT_URLS"
    )
    assert (event_server.received, server.connections) == ([], 1)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://localhost/",
        "http://169.254.169.254/latest/",
        "http://[::1]/",
        "http://10.0.0.1/",
        "http://8.8.8.8:81/",
    ],
)
def test_events_are_not_sent_to_inside_addresses_or_odd_ports_unless_that_is_allowed(
    books: Books, url: str
) -> None:
    events_dispatcher = make_dispatcher(books, url)
    books.failed()
    dispatch_due(events_dispatcher, rounds=1)
    assert "add " in last_error(books)
    assert "to FETCH_ALLOW" in last_error(books)


def test_an_untrusted_certificate_ends_the_attempt_before_anything_is_sent(
    books: Books, tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    server = ScriptedServer((answer(body=b""),), context)
    try:
        events_dispatcher = make_dispatcher(
            books, f"https://127.0.0.1:{server.port}/", allow=f"127.0.0.1:{server.port}"
        )
        books.failed()
        dispatch_due(events_dispatcher, rounds=1)
    finally:
        server.close()
    assert last_error(books).startswith("127.0.0.1: TLS failed, ")
    assert server.requests == []


def test_a_name_is_looked_up_once_and_only_what_was_checked_is_connected_to(books: Books) -> None:
    answers = [["10.0.0.1"], ["93.184.216.34"]]
    connected: list[tuple[str, int]] = []

    def connect(address: tuple[str, int], _timeout: float) -> object:
        connected.append(address)
        raise ConnectionRefusedError

    connector = SafeConnector(
        AddressPolicy(),
        resolve=lambda _host, _port: answers.pop(),
        connect=connect,  # type: ignore[arg-type]
    )
    transport = WebhookTransport("http://hooks.example/", connector, [SECRET], books.clock)
    event = Event(1, EventType.JOB_FAILED, "REF", None, 0, 0.0, {})
    for _ in range(2):
        with pytest.raises(EventNotDeliveredError):
            transport.send(event, "{}")
    assert (connected, answers) == ([("93.184.216.34", 80)], [])


# Who is slow.


def test_a_slow_destination_delays_neither_another_nor_the_archiving(
    books: Books, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        slow, quick = stack.enter_context(EventServer()), stack.enter_context(EventServer())
        slow.gate.clear()
        dispatchers = [dispatcher_to(slow, books), dispatcher_to(quick, books)]
        work_queues = [
            WorkQueue(
                events_dispatcher.destination.name,
                2,
                events_dispatcher.next_due,
                events_dispatcher.claim,
                events_dispatcher.send,
            )
            for events_dispatcher in dispatchers
        ]
        engine = EmbeddedEngine(
            books.claims, Notifier(tmp_path / "worker.fifo"), books.clock, poll_interval=0.02
        )
        thread = threading.Thread(target=engine.run, args=(work_queues,))
        thread.start()
        try:
            for number in range(12):
                books.failed(f"task-{number}")
            until(lambda: len(quick.received) == 12, what="all sent to the quick one")
            assert slow.waiting == 2
            slow.gate.set()
            until(lambda: len(slow.received) == 12, what="all sent to the slow one")
        finally:
            slow.gate.set()
            engine.stop()
            thread.join(LIMIT)
        assert not thread.is_alive()


def test_a_bug_of_ours_is_an_attempt_that_failed(
    books: Books, event_server: EventServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    events_dispatcher = dispatcher_to(event_server, books)
    books.failed()
    monkeypatch.setattr(events_dispatcher._serializer, "body", lambda _event: 1 / 0)
    dispatch_due(events_dispatcher, rounds=1)
    assert last_error(books) == "unexpected error in the attempt (ZeroDivisionError); see the log"


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
        ] == [f"events to {name}" for name in names]
        assert sorted(
            standing.destination for standing in services.events.destinations()
        ) == sorted(names)


def test_the_command_forgets_a_destination_that_is_named_no_more(
    sqlite_url: str, tmp_path: Path
) -> None:
    environ = {"DATA_DIR": str(tmp_path), "DATABASE_URL": sqlite_url, "EVENT_URLS": "log:"}
    with opened(sqlite_url) as books:
        Outbox(books.database, books.clock).register(["log:", "gone"])
        books.failed()
    shown = invoke(["receiver", "events"], environ, folder=tmp_path)
    (gone,) = [line for line in shown.out.splitlines() if line.startswith("│ gone")]
    assert [cell.strip() for cell in gone.split("│")][3:7] == ["1", "0", "", "0"]
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
    assert "│ gone" not in invoke(["receiver", "events"], environ, folder=tmp_path).out
