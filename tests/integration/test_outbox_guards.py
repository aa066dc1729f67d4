"""Where events may be sent, and how much of an answer is read."""

import socket
import ssl
import time
from contextlib import closing
from pathlib import Path

import pytest
from event_dispatching import PostServer, dispatch_due, last_error, make_dispatcher
from event_server import SECRET, EventServer
from ledgers import LedgerHarness
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

from receiver.errors import EventNotDeliveredError
from receiver.events import transports
from receiver.events.event import Event
from receiver.events.transports import WebhookTransport
from receiver.model import EventType
from receiver.net.client import HttpClient
from receiver.net.connection import SafeConnector
from receiver.net.policy import AddressPolicy


@pytest.mark.parametrize(
    ("script", "limits", "error"),
    [
        (send(b""), (20, 20), "closed connection without response"),
        (send(b"HTTP/1.1 2"), (20, 20), "broken HTTP answer"),
        (send(b"nonsense\r\n\r\n"), (20, 20), "broken HTTP answer"),
        (
            send(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 60_000 + b"\r\n"),
            (20, 20),
            "more than",
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
def test_an_answer_is_read_within_limits_and_a_broken_one_is_a_failure(
    ledger: LedgerHarness,
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
            ledger, f"http://127.0.0.1:{server.port}/", allow=f"127.0.0.1:{server.port}"
        )
        ledger.failed()
        (claimed,) = events_dispatcher.claim(1)
        events_dispatcher.send(claimed)
    finally:
        server.close()
    assert error in last_error(ledger)
    assert server.connections == 1


# Where it may go.


def test_a_redirect_is_not_followed(ledger: LedgerHarness, event_server: EventServer) -> None:
    server = PostServer((redirect(event_server.url, 307),))
    try:
        events_dispatcher = make_dispatcher(
            ledger, f"http://127.0.0.1:{server.port}/", allow=f"127.0.0.1:{server.port}"
        )
        ledger.failed()
        dispatch_due(events_dispatcher, rounds=1)
    finally:
        server.close()
    assert (
        last_error(ledger)
        == "127.0.0.1 answered 307; redirects are not followed, name the last address instead"
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
    ledger: LedgerHarness, url: str
) -> None:
    events_dispatcher = make_dispatcher(ledger, url)
    ledger.failed()
    dispatch_due(events_dispatcher, rounds=1)
    assert "add " in last_error(ledger)
    assert "to FETCH_ALLOW" in last_error(ledger)


def test_an_untrusted_certificate_ends_the_attempt_before_anything_is_sent(
    ledger: LedgerHarness, tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    server = ScriptedServer((answer(body=b""),), context)
    try:
        events_dispatcher = make_dispatcher(
            ledger, f"https://127.0.0.1:{server.port}/", allow=f"127.0.0.1:{server.port}"
        )
        ledger.failed()
        dispatch_due(events_dispatcher, rounds=1)
    finally:
        server.close()
    assert last_error(ledger).startswith("127.0.0.1: TLS failed, ")
    assert server.requests == []


def test_a_name_is_looked_up_once_and_only_what_was_checked_is_connected_to(
    ledger: LedgerHarness,
) -> None:
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
    transport = WebhookTransport(
        "http://hooks.example/", HttpClient(connector), [SECRET], ledger.clock
    )
    event = Event(1, EventType.JOB_FAILED, "REF", None, 0, 0.0, {})
    for _ in range(2):
        with pytest.raises(EventNotDeliveredError):
            transport.send(event, "{}")
    assert (connected, answers) == ([("93.184.216.34", 80)], [])


class KeepingServer(PostServer):
    """Answers request after request on one connection."""

    def _play(self, script: Script, connection: socket.socket) -> None:
        for _ in range(2):
            super()._play(script, connection)


@pytest.mark.parametrize(
    ("script", "connections"),
    [
        (answer(body=b"ok"), 1),
        (answer(body=b""), 1),
        (send(b"HTTP/1.1 204 No Content\r\n\r\n"), 1),
        (answer("Connection: close", body=b"ok"), 2),
        (send(b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 500 Evil\r\n\r\n"), 2),
        (answer(body=bytes(100_000)), 2),
        (send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"), 2),
    ],
)
def test_deliveries_share_a_connection_if_nothing_is_left_on_it(
    script: Script, connections: int
) -> None:
    with closing(KeepingServer((script,))) as server:
        address = f"127.0.0.1:{server.port}"
        client = HttpClient(SafeConnector(AddressPolicy.parse([address], ())))
        with closing(client):
            transport = WebhookTransport(f"http://{address}/", client, [SECRET], time.time)
            for number in range(2):
                event = Event(number, EventType.JOB_FAILED, "REF", None, 0, 0.0, {})
                transport.send(event, f"{{{number}}}")
        assert server.bodies == [b"{0}", b"{1}"]
        assert server.connections == connections
