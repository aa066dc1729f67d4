"""When a request counts as complete: never before gunicorn can read all of it without waiting."""

from contextlib import suppress

import pytest
from gunicorn.config import Config  # type: ignore[import-untyped]  # the package has no types
from gunicorn.http.errors import ParseException  # type: ignore[import-untyped]  # as above
from gunicorn.http.parser import RequestParser  # type: ignore[import-untyped]  # as above
from hypothesis import given
from hypothesis import strategies as st

from receiver.server.arrivals import MAX_HEAD, MAX_REQUEST, READ_TIMEOUT, Arrival
from receiver.server.request_timeout import REQUEST_TIMEOUT


def arrived(data: bytes, *, step: int = 10**9) -> Arrival:
    arrival = Arrival("", 0.0)
    for at in range(0, len(data), step):
        arrival.add(data[at : at + step], 0.0)
    return arrival


def post(*lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join(["POST / HTTP/1.1", "Host: x", *lines, "", ""]).encode() + body


CHUNKED = "Transfer-Encoding: chunked"
COMPLETE = {
    "no body": post(),
    "a body": post("Content-Length: 2", body=b"{}"),
    "a name in capitals": post("CONTENT-LENGTH:2", body=b"{}"),
    "more behind it": post("Content-Length: 2", body=b"{}POST / HTTP/1.1"),
    "an empty line before": b"\r\n" + post(),
    "chunks": post(CHUNKED, body=b"2\r\n{}\r\n1;x=y\r\nz\r\n0\r\n\r\n"),
    "chunks and trailers": post(CHUNKED, body=b"0\r\nX: y\r\n\r\n"),
}
INCOMPLETE = {
    "half a head": b"POST / HTTP/1.1\r\nHost: x\r\n",
    "half a body": post("Content-Length: 3", body=b"{}"),
    "half a chunk": post(CHUNKED, body=b"5\r\n{}\r\n0\r\n\r\n"),
    "no last chunk": post(CHUNKED, body=b"2\r\n{}\r\n"),
    "a last chunk in the data": post(CHUNKED, body=b"fff\r\n0\r\n\r\n0\r\n\r\n"),
    "half a trailer": post(CHUNKED, body=b"0\r\nX: y\r\n"),
    "two lengths": post("Content-Length: 2", "Content-Length: 99", body=b"{}"),
    "length and chunks": post("Content-Length: 2", CHUNKED, body=b"{}"),
    "a folded length": post("X: y", " Content-Length: 99"),
    "another encoding": post("Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "a length that is no number": post("Content-Length: 0x2", body=b"{}"),
    "a chunk of another size": post(CHUNKED, body=b"+2\r\n{}\r\n0\r\n\r\n"),
    "an end before the first line": b"\r\n\r\n" + post(),
}


@pytest.mark.parametrize("step", [1, 7, 10**9])
@pytest.mark.parametrize("kind", COMPLETE)
def test_a_request_is_complete_with_its_last_byte(kind: str, step: int) -> None:
    assert arrived(COMPLETE[kind], step=step).is_complete


@pytest.mark.parametrize("step", [1, 7, 10**9])
@pytest.mark.parametrize("kind", INCOMPLETE)
def test_whatever_is_missing_or_unclear_is_not_complete(kind: str, step: int) -> None:
    arrival = arrived(INCOMPLETE[kind], step=step)
    assert not arrival.is_complete
    assert arrival.needs_thread == (arrival.body_at > 0)


@pytest.mark.parametrize(
    "data",
    [
        b"x" * 10_000,
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * MAX_HEAD,
        post(f"Content-Length: {MAX_REQUEST}"),
        post(CHUNKED, body=b"ffffff\r\n" + bytes(MAX_REQUEST)),
    ],
    ids=["no line", "bare LF", "an endless head", "an announced body", "an endless body"],
)
def test_of_a_request_that_is_too_much_no_more_is_kept(data: bytes) -> None:
    arrival = arrived(data)
    assert arrival.is_too_much
    assert arrival.needs_thread


def test_a_client_is_late_that_is_idle_or_silent_or_never_ends() -> None:
    arrival = Arrival("", 0.0)
    assert not arrival.is_late(15.0, 15.0)
    assert arrival.is_late(15.1, 15.0)
    arrival.add(b"G", 20.0)
    assert not arrival.is_late(20.0 + READ_TIMEOUT, 15.0)
    assert arrival.is_late(20.1 + READ_TIMEOUT, 15.0)
    for second in range(int(REQUEST_TIMEOUT) + 1):
        arrival.add(b"x", 20.0 + second)
    assert not arrival.is_late(20.0 + REQUEST_TIMEOUT, 15.0)
    assert arrival.is_late(20.1 + REQUEST_TIMEOUT, 15.0)


class NothingMore:
    """The socket of a client that sends no more: reading from it would wait."""

    def recv(self, _size: int) -> bytes:
        raise AssertionError("gunicorn waits")


LINES = st.sampled_from(
    [
        "Content-Length: 2",
        "Content-Length: 9",
        "content-length:\t2 ",
        "Content-Length : 7",
        "Content-Length: 2, 9",
        " Content-Length: 9",
        "X: Content-Length: 9",
        CHUNKED,
        "Transfer-Encoding: Chunked, identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding:",
        "X: y",
        "",
    ]
)
PIECES = st.sampled_from(
    [
        b"2\r\n{}\r\n",
        b"0\r\n",
        b"\r\n",
        b"{}",
        b"9;a=b\r\n",
        b"1 \r\nz\r\n",
        b"0;x\r\n",
        b"a\nb",
        b"-1",
    ]
)


@given(st.lists(LINES, max_size=3), st.lists(PIECES, max_size=6))
def test_gunicorn_never_waits_for_a_request_that_counts_as_complete(
    lines: list[str], pieces: list[bytes]
) -> None:
    data = post(*lines, body=b"".join(pieces))
    if arrived(data).is_complete:
        parser = RequestParser(Config(), NothingMore(), ("192.0.2.1", 1))
        parser.unreader.unread(data)
        with suppress(ParseException):
            next(parser).body.read()
