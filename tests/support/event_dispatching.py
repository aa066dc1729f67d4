"""Dispatching events in a test: a dispatcher to one URL, and a server that reads what is posted."""

import socket
from collections.abc import Sequence

from event_server import SECRET, EventServer
from ledgers import LedgerHarness
from outside_network import Script, ScriptedServer

from receiver.events.destinations import OF_JOBS, read_destination
from receiver.events.dispatcher import Dispatcher
from receiver.events.event import EventSerializer
from receiver.events.job_webhooks import THREADS, Hosts, JobWebhookTransport
from receiver.events.transports import transport_for
from receiver.ledger import webhooks
from receiver.ledger.event_queue import JOB_WEBHOOKS
from receiver.ledger.outbox import Outbox
from receiver.net.client import HttpClient
from receiver.net.connection import SafeConnector
from receiver.net.policy import AddressPolicy


class PostServer(ScriptedServer):
    """Plays scripts for requests with a body; ``bodies`` are those received."""

    def __init__(self, scripts: tuple[Script, ...]) -> None:
        self.bodies: list[bytes] = []
        super().__init__(scripts)

    def _play(self, script: Script, connection: socket.socket) -> None:
        connection.settimeout(10)
        received = b""
        while (end := received.find(b"\r\n\r\n")) < 0 or len(received) < end + 4 + _length(
            received[:end]
        ):
            if not (piece := connection.recv(65536)):
                return
            received += piece
        self.requests.append(received[:end])
        self.bodies.append(received[end + 4 :])
        script(connection)


def _length(head: bytes) -> int:
    return int(
        next(
            line.split(b":")[1]
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        )
    )


def make_dispatcher(
    ledger: LedgerHarness,
    url: str,
    *,
    allow: str = "",
    secrets: Sequence[str] = (SECRET,),
    public_url: str | None = None,
) -> Dispatcher:
    """Register the destination at this URL and return its dispatcher.

    Of the local addresses, only the one in ``allow`` may be contacted.
    """
    destination, outbox = read_destination(url), Outbox(ledger.database, ledger.clock)
    outbox.register([destination.name])
    connector = SafeConnector(AddressPolicy.parse([allow] if allow else [], ()))
    client = HttpClient(connector, idle_connections=0)
    transport = transport_for(destination, client, secrets, ledger.clock)
    return Dispatcher(
        outbox, destination, transport, EventSerializer("s3://pictures/home", public_url)
    )


def dispatcher_to(
    event_server: EventServer,
    ledger: LedgerHarness,
    *,
    secrets: Sequence[str] = (SECRET,),
    public_url: str | None = None,
) -> Dispatcher:
    """Register this server as a destination and return its dispatcher."""
    return make_dispatcher(
        ledger, event_server.url, allow=event_server.address, secrets=secrets, public_url=public_url
    )


def hosts_of(ledger: LedgerHarness, wait: float = 0.0) -> Hosts:
    """Return what the hosts of jobs' webhooks share; see ``Hosts``."""
    outbox = Outbox(ledger.database, ledger.clock)
    return Hosts(ledger.clock, lambda: outbox.expedited_at(JOB_WEBHOOKS), wait)


def job_webhook_dispatcher(
    ledger: LedgerHarness, *allow: str, hosts: Hosts | None = None
) -> Dispatcher:
    """Return the dispatcher of all jobs' webhooks; these local addresses may be contacted."""
    outbox = Outbox(ledger.database, ledger.clock)
    client = HttpClient(SafeConnector(AddressPolicy.parse(allow, ())), idle_connections=0)
    transport = JobWebhookTransport(
        ledger.queries.webhook, hosts or hosts_of(ledger), client, [SECRET], ledger.clock
    )

    def postpone(*given: object) -> None:
        webhooks.postpone(ledger.database, *given)  # type: ignore[arg-type]  # passed on

    serializer = EventSerializer("s3://pictures/home", None)
    return Dispatcher(outbox, OF_JOBS, transport, serializer, postpone, threads=THREADS)


def dispatch_due(dispatcher: Dispatcher, *, rounds: int = 20) -> None:
    """Deliver what is due now, one event after the other."""
    for _ in range(rounds):
        for claimed in dispatcher.claim(10):
            dispatcher.send(claimed)


def last_error(ledger: LedgerHarness) -> str:
    """Return the error of the last delivery attempt of the only event."""
    return str(
        ledger.database.read(
            lambda connection: connection.exec_driver_sql("SELECT error FROM sendings").scalar()
        )
    )
