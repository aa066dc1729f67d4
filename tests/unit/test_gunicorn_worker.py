"""What our worker adds to gunicorn's: a client that does not close blocks no other."""

import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config  # type: ignore[import-untyped]  # the package has no types
from gunicorn.util import close_graceful  # type: ignore[import-untyped]  # as above
from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]  # as above

from receiver.server.gunicorn_worker import DrainingWorker, close_gracefully


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def received_after(ours: socket.socket) -> list[bytes]:
    """Close a connection as gunicorn's main loop does; return what it had to wait for."""
    pieces: list[bytes] = []

    class Watched:
        def shutdown(self, how: int) -> None:
            ours.shutdown(how)

        def settimeout(self, seconds: float) -> None:
            assert seconds > 0
            ours.setblocking(False)  # whatever would be waited for now is an error

        def recv(self, size: int) -> bytes:
            piece = ours.recv(size)
            pieces.append(piece)
            return piece

        def close(self) -> None:
            ours.close()

    close_graceful(Watched())
    return pieces


def test_who_does_not_hang_up_is_waited_for_in_a_thread_and_not_in_the_main_loop(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    theirs.sendall(b"the rest of a body")
    close_gracefully(ours, seconds=0.05)
    assert received_after(ours) == [b""], "the end, at once"
    assert theirs.recv(1) == b""


def test_a_client_that_closes_is_not_waited_for(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.sendall(b"HTTP/1.1 413 ")
    parting = threading.Thread(target=close_gracefully, args=(ours, 60.0))
    parting.start()
    assert theirs.recv(100) == b"HTTP/1.1 413 "
    assert theirs.recv(100) == b"", "our side ends at once"
    theirs.close()
    parting.join(10)
    assert not parting.is_alive()


def test_what_is_still_sent_is_read_up_to_a_bound(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pair
    monkeypatch.setattr("receiver.server.gunicorn_worker.MAX_READ_AT_CLOSE", 1000)
    theirs.sendall(bytes(5000))
    close_gracefully(ours, seconds=60.0)
    assert theirs.recv(1) == b""


@pytest.mark.parametrize(("answer", "parted"), [(True, False), (False, True)])
def test_only_a_connection_that_ends_is_closed_gracefully(
    pair: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    *,
    answer: bool,
    parted: bool,
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(ThreadWorker, "handle", lambda _worker, _connection: answer)
    monkeypatch.setattr("receiver.server.gunicorn_worker.close_gracefully", seen.append)
    worker = DrainingWorker(1, 1, [], None, 1, Config(), None)
    worker.tmp.close()
    assert worker.handle(SimpleNamespace(sock=pair[0])) is answer
    assert bool(seen) is parted
