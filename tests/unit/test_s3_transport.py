"""What a bucket's connection reads: lines are read whole, and every wait is counted."""

import socket
from collections.abc import Iterator
from http.client import RemoteDisconnected
from typing import Any

import pytest

from receiver.archive.stores.s3_transport import LIMITS, _Pace, _TimedSocket


class CountingPace(_Pace):
    """Remembers how many bytes each wait brought."""

    def __init__(self) -> None:
        super().__init__(LIMITS)
        self.counts: list[int] = []

    def add(self, seconds: float, count: int) -> None:
        super().add(seconds, count)
        self.counts.append(count)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5)
        yield ours, theirs


def test_an_unbuffered_line_is_read_at_once_and_what_follows_is_left(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """As botocore reads the answer to ``Expect: 100-continue``; the response comes after it."""
    ours, theirs = ends
    theirs.sendall(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    pace = CountingPace()
    with _TimedSocket(ours, pace).makefile("rb", 0) as stream:
        assert [stream.readline(), stream.readline()] == [b"HTTP/1.1 100 Continue\r\n", b"\r\n"]
    assert [count for count in pace.counts if count] == [23, 2]
    assert ours.recv(100) == b"HTTP/1.1 200 OK\r\n"


def test_a_line_that_comes_in_pieces_is_read_whole(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    theirs.sendall(b"HTTP/1.1 100")
    with _TimedSocket(ours, CountingPace()).makefile("rb", 0) as stream:
        assert stream.read(4) == b"HTTP"
        theirs.sendall(b" Continue\r\n")
        assert stream.readline() == b"/1.1 100 Continue\r\n"
        theirs.close()
        with pytest.raises(RemoteDisconnected):
            stream.readline()  # botocore would ask for an empty line for ever


def test_a_line_is_read_from_a_socket_that_cannot_show_what_has_come(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """As urllib3's own, for TLS through a proxy that speaks TLS: it takes no flags."""
    ours, theirs = ends
    theirs.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    class Tunnel:
        makefile = ours.makefile

        def recv(self, size: int, flags: int = 0) -> bytes:
            if flags:
                raise ValueError("non-zero flags not allowed in calls to recv")
            return ours.recv(size)

    tunnel: Any = Tunnel()
    with _TimedSocket(tunnel, CountingPace()).makefile("rb", 0) as stream:
        assert stream.readline() == b"HTTP/1.1 100 Continue\r\n"
