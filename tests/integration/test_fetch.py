"""Downloads: good and broken responses, and a failing local disk. Sockets and files are real."""

import gzip
import hashlib
import socket
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outside_network import (
    DEFAULT_TLS,
    OK,
    PICTURE,
    URL,
    WEB,
    OutsideNetwork,
    Script,
    answer,
    chunked,
    pour,
    redirect,
    send,
    silence,
)
from small_disks import files_no_larger_than
from waiting import LIMIT

from receiver.errors import FetchError, SourceGoneError, StoreError, TooLargeError
from receiver.net.download import BUFFER_SIZE, BrokenOffError, Fetched, Fetcher
from receiver.net.policy import AddressPolicy

PACKED = gzip.compress(PICTURE)
DAMAGED = PACKED[:-8] + bytes(8)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[OutsideNetwork]:
    with OutsideNetwork(tmp_path / "picture") as network:
        yield network


# A good answer


def test_a_picture_is_fetched_and_hashed(network: OutsideNetwork) -> None:
    server = network.serve(answer("Content-Type: image/png"), at=WEB)
    assert network.fetch() == Fetched(
        len(PICTURE), hashlib.sha256(PICTURE).hexdigest(), URL, "image/png"
    )
    assert network.picture.read_bytes() == PICTURE
    assert network.picture.stat().st_mode & 0o777 == 0o600
    head = server.requests[0].decode()
    assert head.startswith("GET /x.png?sig=hunter2 HTTP/1.1\r\nHost: pictures.example\r\n")
    assert "Accept-Encoding: identity\r\n" in head


def test_an_exempt_address_is_fetched_without_any_double(
    network: OutsideNetwork, tmp_path: Path
) -> None:
    server = network.serve(answer(), at=WEB)
    policy = AddressPolicy.parse([f"127.0.0.1:{server.port}", f"localhost:{server.port}"], ())
    fetcher = Fetcher(policy, max_bytes=len(PICTURE), timeout=10)
    for host in ("127.0.0.1", "localhost"):
        assert fetcher.fetch(f"http://{host}:{server.port}/x.png", tmp_path / host).size == len(
            PICTURE
        )
    assert f"Host: localhost:{server.port}\r\n".encode() in server.requests[1]


def test_environment_proxies_are_not_used(
    network: OutsideNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    network.serve(answer(), at=WEB)
    assert network.fetch().size == len(PICTURE)


@pytest.mark.parametrize(
    "size", [1, BUFFER_SIZE - 1, BUFFER_SIZE, BUFFER_SIZE + 1, 3 * BUFFER_SIZE]
)
@pytest.mark.parametrize("framing", ["length", "chunks", "end"])
def test_a_body_of_any_framing_arrives_whole(
    network: OutsideNetwork, size: int, framing: str
) -> None:
    body = PICTURE[:size]
    scripts = {
        "length": answer(body=body),
        "chunks": chunked(body[:100], body[100:5000], body[5000:], end=b"0\r\nTrailer: 1\r\n\r\n"),
        "end": send(b"HTTP/1.0 200 OK\r\n\r\n", body),
    }
    network.serve(scripts[framing], at=WEB)
    assert network.fetch().sha256 == hashlib.sha256(body).hexdigest()
    assert network.picture.read_bytes() == body


def test_a_head_before_the_head_is_skipped(network: OutsideNetwork) -> None:
    network.serve(
        send(b"HTTP/1.1 100 Continue\r\n\r\n", OK, b"Content-Length: 4\r\n\r\nbody"), at=WEB
    )
    assert network.fetch().size == 4


def test_the_memory_of_a_fetch_does_not_grow_with_the_file(network: OutsideNetwork) -> None:
    network.serve(pour(48 << 20), at=WEB)
    tracemalloc.start()
    try:
        assert network.fetch(max_bytes=1 << 30).size == 48 << 20
        assert tracemalloc.get_traced_memory()[1] < 4 << 20  # the server's block of 1 MiB included
    finally:
        tracemalloc.stop()


# Answers that are not the picture


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, SourceGoneError), (403, SourceGoneError), (404, SourceGoneError), (410, SourceGoneError)]
    + [
        (status, FetchError)
        for status in (204, 206, 226, 300, 304, 400, 408, 425, 429, 451, 500, 502, 503, 504, 599)
    ],
)
def test_a_status_that_is_not_200_is_said(
    network: OutsideNetwork, status: int, kind: type[FetchError]
) -> None:
    network.serve(answer(body=b"sorry", status=f"{status} No"), at=WEB)
    with pytest.raises(FetchError, match=f"^pictures.example answered {status}$") as failed:
        network.fetch()
    assert type(failed.value) is kind
    assert not failed.value.permanent
    assert not network.picture.exists()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (answer(body=b""), "nothing"),
        (send(OK, b"\r\n"), "nothing"),
        (chunked(), "nothing"),
        (answer("Content-Encoding: br"), "Content-Encoding 'br'"),
        (answer("Content-Encoding: zstd, utf-8"), "Content-Encoding 'zstd'"),
        (answer("Content-Encoding: gzip, gzip, gzip"), "3 encodings"),
        (answer("Transfer-Encoding: gzip, chunked"), "where its answer ends"),
        (answer("Content-Length: many"), "where its answer ends"),
        (answer("Content-Length: -1"), "where its answer ends"),
        (answer("Content-Length: 5", "Content-Length: 6"), "where its answer ends"),
        (answer("X: " + "x" * 70_000), "LineTooLong"),
        (send(b"HTTP/1.1 200 " + b"x" * 70_000), "LineTooLong"),
        (send(OK, b"Content-Le"), "nothing"),
        (send(b"220 mail.example ESMTP\r\n"), "BadStatusLine"),
        (send(b"HTTP/2 200 OK\r\n\r\n"), "UnknownProtocol"),
        (send(b"/x.png?sig=hunter2 you asked\r\n"), "BadStatusLine"),
        (send(), "closed connection|reset"),
        (redirect(""), "answered 302 without a Location"),
    ],
)
def test_a_broken_answer_is_a_transient_error_and_leaves_no_file(
    network: OutsideNetwork, script: Script, said: str
) -> None:
    network.serve(script, at=WEB)
    with pytest.raises(FetchError, match=said) as failed:
        network.fetch()
    assert not failed.value.permanent
    assert "pictures.example" in str(failed.value)
    assert "hunter2" not in str(failed.value)
    assert not network.picture.exists()


def test_a_connection_that_is_reset_is_a_transient_error(network: OutsideNetwork) -> None:
    def reset(connection: socket.socket) -> None:
        connection.sendall(OK + b"Content-Length: 9\r\n\r\nbody")
        connection.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
        )  # closing now resets

    network.serve(reset, at=WEB)
    with pytest.raises(
        FetchError, match=r"pictures\.example: (Connection reset by peer|cut short)"
    ):
        network.fetch()
    assert not network.picture.exists() or network.picture.read_bytes() == b"body"


@pytest.mark.parametrize(
    ("script", "options", "said"),
    [
        (answer("Content-Length: 2000000"), {}, "cut short, 1048576 of 2000000 bytes"),
        (
            answer("Content-Encoding: gzip", body=gzip.compress(PICTURE)[:-9]),
            {},
            "gzip data has no end",
        ),
        (answer("Content-Encoding: gzip", body=DAMAGED), {}, "broken gzip data"),
        (silence(OK + b"Content-Length: 2000000\r\n\r\n" + PICTURE), {"stall": 0.1}, "no data for"),
    ],
)
def test_what_came_before_a_body_broke_off_stays_and_is_described(
    network: OutsideNetwork, script: Script, options: dict[str, Any], said: str
) -> None:
    network.serve(script, at=WEB)
    with pytest.raises(BrokenOffError, match=f"^pictures.example: .*{said}") as failed:
        network.fetch(**options)
    assert not failed.value.permanent
    came, data = failed.value.fetched, network.picture.read_bytes()
    assert (came.size, came.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert PICTURE.startswith(data[:1000])


@pytest.mark.parametrize(
    "script",
    [answer(), chunked(PICTURE[:1000], PICTURE[1000:]), send(OK, b"\r\n", PICTURE), pour(1 << 40)],
)
def test_more_than_the_most_is_refused_for_good(network: OutsideNetwork, script: Script) -> None:
    network.serve(script, at=WEB)
    with pytest.raises(TooLargeError, match="FETCH_MAX_BYTES") as failed:
        network.fetch(max_bytes=len(PICTURE) - 1)
    assert failed.value.permanent
    assert not network.picture.exists()


@pytest.mark.parametrize("script", [answer(), chunked(PICTURE), send(OK, b"\r\n", PICTURE)])
def test_exactly_the_most_is_taken(network: OutsideNetwork, script: Script) -> None:
    network.serve(script, at=WEB)
    assert network.fetch(max_bytes=len(PICTURE)).size == len(PICTURE)


def pour_lines(line: bytes, head: bytes = OK) -> Script:
    """Script: send a beginning, then the same line for as long as the client listens."""

    def play(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(line * (1 + 100_000 // len(line)))

    return play


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (pour_lines(b"HTTP/1.1 100 Continue\r\n\r\n", b""), "more than 262144 bytes around"),
        (
            pour_lines(b"HTTP/1.1 100 Continue\r\n" + b"X: y\r\n" * 90 + b"\r\n", b""),
            "more than 262144 bytes around",
        ),
        (pour_lines(b"X: " + b"y" * 60_000 + b"\r\n"), "more than 262144 bytes around"),
        (pour_lines(b"X: y\r\n"), "more than 262144 bytes around"),
        (
            pour_lines(
                b"1;" + b"x" * 60_000 + b"\r\n!\r\n", OK + b"Transfer-Encoding: chunked\r\n\r\n"
            ),
            "bytes around",
        ),
        (
            pour_lines(
                b"X: " + b"y" * 60 + b"\r\n",
                OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\n!\r\n0\r\n",
            ),
            "bytes around",
        ),
    ],
    ids=[
        "continues",
        "long continues",
        "long headers",
        "many headers",
        "chunk extensions",
        "trailers",
    ],
)
def test_what_stands_around_a_body_is_bounded(
    network: OutsideNetwork, script: Script, said: str
) -> None:
    network.serve(script, at=WEB)
    tracemalloc.start()
    try:
        with pytest.raises(FetchError, match=said):
            network.fetch(timeout=LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert not network.picture.exists()


_PIECES = [
    b"HTTP/1.1 200 OK\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 5\r\n",
    b"Location: http://[",
    b"5\r\n",
]
_PIECES += [
    b"-1\r\n",
    b"0\r\n",
    b"HTTP/1.1 302 F\r\n",
    b"HTTP/1.1 100 C\r\n",
    b"Content-Length: -",
    b"Content-Type: \x80\n x",
    b"hello",
    b":",
    b";",
]


@given(st.lists(st.sampled_from(_PIECES) | st.binary(max_size=5), max_size=12))
def test_whatever_a_source_sends_only_a_fetch_error_comes_out(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    picture = tmp_path_factory.getbasetemp() / "whatever"
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(b"".join([_PIECES[0], *pieces]))
        theirs.shutdown(socket.SHUT_WR)
        fetcher = Fetcher(
            AddressPolicy(),
            max_bytes=100,
            timeout=10,
            connect=lambda _address, _timeout: ours,
            ssl_context=DEFAULT_TLS,
        )
        try:
            assert fetcher.fetch("http://1.1.1.1/", picture).size == len(picture.read_bytes())
            picture.unlink()
        except FetchError:
            assert not picture.exists()
        assert ours.fileno() == -1


# Our own disk


def test_a_file_that_exists_is_neither_overwritten_nor_removed(network: OutsideNetwork) -> None:
    network.picture.write_bytes(b"kept")
    network.serve(answer(), at=WEB)
    with pytest.raises(StoreError, match="File exists"):
        network.fetch()
    assert network.picture.read_bytes() == b"kept"


def test_a_folder_that_is_not_there_is_our_own_fault(
    network: OutsideNetwork, tmp_path: Path
) -> None:
    network.serve(answer(), at=WEB)
    tmp_path.rmdir()
    with pytest.raises(StoreError, match="No such file"):
        network.fetch()
    tmp_path.mkdir()


def test_a_disk_that_takes_no_more_is_our_own_fault(network: OutsideNetwork) -> None:
    network.serve(answer(), at=WEB)
    with (
        files_no_larger_than(100_000),
        pytest.raises(StoreError, match="cannot write to the disk: File too large"),
    ):
        network.fetch()
    assert not network.picture.exists()
