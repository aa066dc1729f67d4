"""The time limit for requests: a slow sender is cut off, a slow response is not."""

import socket
import threading
from collections.abc import Iterator

import pytest

from receiver.server.request_timeout import RequestTimeouts


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


class Clock:
    """A clock that shows the time it was set to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_request_that_drips_in_ends_at_its_deadline_although_it_never_fell_silent(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    clock, got = Clock(), bytearray()
    timeouts, dripped = RequestTimeouts(20.0, clock), threading.Event()

    def read() -> None:
        with timeouts.limit(ours):
            while piece := ours.recv(1):
                got.extend(piece)
                dripped.set()

    reader = threading.Thread(target=read)
    reader.start()
    for second in range(20):
        clock.now = float(second)
        dripped.clear()
        theirs.send(b"x")
        assert dripped.wait(10)
        timeouts.close_late()
        assert reader.is_alive()
    clock.now = 20.0
    timeouts.close_late()
    reader.join(10)
    assert not reader.is_alive()
    assert got == b"x" * 20, "what came is all there is"


def test_an_answer_can_still_be_sent_to_who_was_cut_off(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    clock = Clock()
    timeouts = RequestTimeouts(20.0, clock)
    with timeouts.limit(ours):
        clock.now = 21.0
        timeouts.close_late()
        assert ours.recv(1) == b""
        ours.sendall(b"HTTP/1.1 400 ")
    assert theirs.recv(100) == b"HTTP/1.1 400 "


def test_who_was_served_in_time_and_who_is_gone_are_left_alone(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    clock = Clock()
    timeouts = RequestTimeouts(20.0, clock)
    with timeouts.limit(ours):
        pass
    clock.now = 100.0
    timeouts.close_late()
    theirs.send(b"next")
    assert ours.recv(10) == b"next"
    with timeouts.limit(ours):
        ours.close()
        clock.now = 200.0
        timeouts.close_late()
