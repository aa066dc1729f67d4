"""Whoever tells events, in a test: a sender to one URL, and servers that read what is posted to them."""

import socket
from collections.abc import Sequence

from event_server import SECRET
from ledgers import Books
from outside_network import Script, ScriptedServer

from receiver.events.destinations import read_destination
from receiver.events.dispatcher import Dispatcher
from receiver.events.event import EventSerializer
from receiver.events.transports import transport_for
from receiver.ledger.outbox import Outbox
from receiver.net.connection import SafeConnector
from receiver.net.policy import AddressPolicy


class PostServer(ScriptedServer):
    """Plays scripts for requests that have a body; ``bodies`` are those that came."""

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
    books: Books,
    url: str,
    *,
    allow: str = "",
    secrets: Sequence[str] = (SECRET,),
    public_url: str | None = None,
) -> Dispatcher:
    """Make known, and return, who tells the destination at this URL; only what ``allow`` says may be reached of this machine."""
    destination, outbox = read_destination(url), Outbox(books.database, books.clock)
    outbox.register([destination.name])
    connector = SafeConnector(AddressPolicy.parse([allow] if allow else [], ()))
    transport = transport_for(destination, connector, secrets, books.clock)
    return Dispatcher(
        outbox, destination, transport, EventSerializer("s3://pictures/home", public_url)
    )


def dispatch_due(dispatcher: Dispatcher, *, rounds: int = 20) -> None:
    """Do what is due now, one after the other."""
    for _ in range(rounds):
        for claimed in dispatcher.claim(10):
            dispatcher.send(claimed)


def last_error(books: Books) -> str:
    """Return what the last attempt to tell the only event met."""
    return str(
        books.database.read(
            lambda connection: connection.exec_driver_sql("SELECT error FROM sendings").scalar()
        )
    )
