"""Connections that are kept for the next download: what may be used again, and what never."""

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from outside_network import (
    DEFAULT_TLS,
    OK,
    OUTSIDE,
    TLS,
    WEB,
    OutsideNetwork,
    Script,
    answer,
    certificate,
    chunked,
    keep,
    redirect,
    send,
    silence,
)
from waiting import until

from receiver.errors import AddressRefusedError, FetchError
from receiver.net.client import IDLE_SECONDS, _IdleConnections, _is_silent, _Key
from receiver.net.download import Fetcher
from receiver.net.policy import AddressPolicy

URL = "http://pictures.example/x.png"
OTHER = "1.1.1.1"


@pytest.fixture
def network(tmp_path: Path) -> Iterator[OutsideNetwork]:
    with OutsideNetwork(tmp_path / "picture") as network:
        yield network


class Downloads:
    """Downloads through one fetcher, whose clock stands still."""

    def __init__(self, network: OutsideNetwork, **options: Any) -> None:
        self.now = 0.0
        self._picture = network.picture
        defaults: dict[str, Any] = {"ssl_context": DEFAULT_TLS, "timeout": 10.0}
        self.fetcher = Fetcher(
            AddressPolicy(),
            max_bytes=1 << 20,
            resolve=network.resolve,
            connect=network.connect,
            clock=lambda: self.now,
            **(defaults | options),
        )

    def __call__(self, url: str = URL) -> bytes:
        """Return the bytes of a URL."""
        self.fetcher.fetch(url, self._picture)
        found = self._picture.read_bytes()
        self._picture.unlink()
        return found

    def kept(self) -> list[socket.socket]:
        """Return the connections that are kept."""
        return [sock for _, sock, _ in self.fetcher._client._idle.kept]


@pytest.fixture
def download(network: OutsideNetwork) -> Iterator[Downloads]:
    downloads = Downloads(network)
    with closing(downloads.fetcher):
        yield downloads


FIRST, SECOND = answer(body=b"first"), answer(body=b"second")


def test_a_connection_is_used_again_but_every_download_resolves_the_name(
    network: OutsideNetwork, download: Downloads
) -> None:
    server = network.serve(keep(FIRST, SECOND), at=WEB)
    assert (download(), download()) == (b"first", b"second")
    assert server.connections == 1
    assert network.resolved == ["pictures.example"] * 2


def test_the_connection_of_a_redirect_is_used_again(
    network: OutsideNetwork, download: Downloads
) -> None:
    small = answer("Location: /there", body=b"moved", status="302 Found")
    server = network.serve(keep(redirect("/here"), small, FIRST), at=WEB)
    assert download() == b"first"
    assert server.connections == 1


def test_a_kept_connection_goes_to_an_address_that_the_name_has_now(
    network: OutsideNetwork, download: Downloads
) -> None:
    network.serve(keep(FIRST), at=WEB)
    network.serve(keep(SECOND), at=(OTHER, 80))
    assert download() == b"first"
    network.names["pictures.example"] = [OTHER]
    assert download() == b"second"
    network.names["pictures.example"] = [OUTSIDE, "10.0.0.1"]
    with pytest.raises(AddressRefusedError, match="a private network"):
        download()
    network.names["pictures.example"] = ["127.0.0.1"]
    with pytest.raises(AddressRefusedError, match="loopback"):
        download()


def test_another_host_at_the_same_address_gets_a_connection_of_its_own(
    network: OutsideNetwork, download: Downloads
) -> None:
    network.names["other.example"] = [OUTSIDE]
    server = network.serve(keep(FIRST), keep(SECOND), at=WEB)
    assert (download(), download("http://other.example/")) == (b"first", b"second")
    assert server.connections == 2


# What is never used again


def length(*more: str, version: str = "1.1") -> bytes:
    head = [f"HTTP/{version} 200 OK", *more]
    return "\r\n".join([*head, "", ""]).encode()


@pytest.mark.parametrize(
    "script",
    [
        answer("Connection: close", body=b"first"),
        answer("Connection: Keep-Alive, Close", body=b"first"),
        send(length("Content-Length: 5", version="1.0"), b"first"),
        send(length("Content-Length: 5", "Connection: keep-alive", version="1.0"), b"first"),
        chunked(b"first"),
        send(length("Content-Length: 5", "Content-Length: 5"), b"first"),
        send(length("Content-Length: 5, 5"), b"first"),
        send(length("Content-Length : 5", "Content-Length: 5"), b"first"),
        send(length("Content-Length:", " 5"), b"first"),
        send(length("X", "Content-Length: 5"), b"first"),
        send(length("X: \0", "Content-Length: 5"), b"first"),
        send(b"HTTP/1.1 200 OK\nContent-Length: 5\n\n", b"first"),
        send(b"HTTP/1.1 103 Early Hints\r\n\r\n", length("Content-Length: 5"), b"first"),
        # Smuggling: more bytes than the head says.
        send(length("Content-Length: 5"), b"first", b"x"),
        send(length("Content-Length: 5"), b"first", b"\r\n"),
        send(length("Content-Length: 5"), b"first", length("Content-Length: 4"), b"evil"),
        send(
            length("Content-Length: 5", "Transfer-Encoding: chunked"),
            b"5\r\nfirst\r\n0\r\n\r\n",
            length("Content-Length: 4"),
            b"evil",
        ),
    ],
)
def test_a_connection_with_any_doubt_is_not_used_again(
    network: OutsideNetwork, download: Downloads, script: Script
) -> None:
    server = network.serve(keep(script, answer(body=b"evil")), SECOND, at=WEB)
    assert download() == b"first"
    assert download.kept() == []
    assert download() == b"second"
    assert server.connections == 2


@pytest.mark.parametrize("status", ["404 Not Found", "500 Oh"])
def test_the_connection_of_a_failure_is_not_used_again(
    network: OutsideNetwork, download: Downloads, status: str
) -> None:
    network.serve(keep(answer(body=b"sorry", status=status)), SECOND, at=WEB)
    with pytest.raises(FetchError):
        download()
    assert download() == b"second"


def test_what_arrives_on_a_kept_connection_never_poisons_the_next_download(
    network: OutsideNetwork, download: Downloads
) -> None:
    theirs: list[socket.socket] = []

    def play(connection: socket.socket) -> None:
        theirs.append(connection.dup())
        FIRST(connection)

    network.serve(keep(play), SECOND, at=WEB)
    assert download() == b"first"
    with theirs[0] as connection:
        connection.sendall(length("Content-Length: 4") + b"evil")
        [kept] = download.kept()
        until(lambda: not _is_silent(kept), what="the bytes of no request")
        assert download() == b"second"


def test_an_old_connection_is_closed(network: OutsideNetwork, download: Downloads) -> None:
    server = network.serve(keep(FIRST, SECOND), SECOND, at=WEB)
    download()
    [kept] = download.kept()
    download.now = IDLE_SECONDS
    assert download() == b"second"
    assert server.connections == 2
    assert kept.fileno() == -1


def test_servers_that_keep_connections_exhaust_nothing() -> None:
    idle = _IdleConnections(lambda: 0.0, limit=3)
    pairs = [socket.socketpair() for _ in range(5)]
    for number, (ours, _) in enumerate(pairs):
        idle.put(_Key("http", f"host-{number}.example", 80, OUTSIDE), ours)
    assert [ours.fileno() == -1 for ours, _ in pairs] == [True, True, False, False, False]
    idle.close()
    assert all(ours.fileno() == -1 for ours, _ in pairs)
    late, last = socket.socketpair()
    idle.put(_Key("http", "late.example", 80, OUTSIDE), late)
    assert late.fileno() == -1
    for theirs in [last, *(theirs for _, theirs in pairs)]:
        theirs.close()


# Connections that end


def hang_up(connection: socket.socket) -> None:
    """Script: close without an answer, though the request has come."""
    connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("end", [hang_up, send(b"")])
def test_a_request_on_a_connection_that_was_closed_meanwhile_is_sent_once_more(
    network: OutsideNetwork, download: Downloads, end: Script
) -> None:
    server = network.serve(keep(FIRST, hang_up), end, SECOND, at=WEB)
    assert download() == b"first"
    with pytest.raises(FetchError, match=r"closed connection|reset"):
        download()  # the new connection ended too: that is an error
    assert server.connections == 2
    assert download() == b"second"


@pytest.mark.parametrize("begun", [b"HTTP/1.1 2", OK + b"Content-Length: 9\r\n\r\nhalf"])
def test_an_answer_that_has_begun_is_not_asked_for_again(
    network: OutsideNetwork, download: Downloads, begun: bytes
) -> None:
    def play(connection: socket.socket) -> None:
        connection.sendall(begun)
        hang_up(connection)

    server = network.serve(keep(FIRST, play), SECOND, at=WEB)
    download()
    with pytest.raises(FetchError):
        download()
    assert server.connections == 1


def test_the_limits_of_time_hold_on_a_kept_connection(network: OutsideNetwork) -> None:
    server = network.serve(keep(FIRST, silence()), at=WEB)
    downloads = Downloads(network, stall=0.2)
    with closing(downloads.fetcher):
        downloads()
        with pytest.raises(FetchError, match=r"no data for 0\.2 s"):
            downloads()
    assert server.connections == 1


# TLS


def test_tls_connections_are_kept_for_their_own_host_only(
    network: OutsideNetwork, tmp_path: Path
) -> None:
    pem = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    network.names["other.example"] = [OUTSIDE]
    server = network.serve(keep(FIRST, SECOND), at=TLS, tls=context)
    url: Callable[[str], str] = "https://{}/x.png".format
    downloads = Downloads(network, ssl_context=ssl.create_default_context(cafile=str(pem)))
    with closing(downloads.fetcher):
        assert downloads(url("pictures.example")) == b"first"
        with pytest.raises(FetchError, match=r"TLS failed, .*mismatch"):
            downloads(url("other.example"))
        assert downloads(url("pictures.example")) == b"second"
    assert len(server.requests) == 1
    assert server.connections == 2
