"""A relay before a server; it can stop, or lose bytes, without closing a connection."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TypeAlias

# Where the server is: the path of its Unix socket, or None where there is no server at all.
Upstream: TypeAlias = str | None


class Relay:
    """Passes bytes on in both directions while it is not ``silent``."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._may_pass = threading.Event()
        self._lossy = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self._sockets: list[socket.socket] = [self._listener]
        self.port: int = self._listener.getsockname()[1]
        self.accepted = 0
        if upstream is not None:
            self._may_pass.set()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Pass nothing on during the block; what arrived meanwhile is passed on after it."""
        self._may_pass.clear()
        try:
            yield
        finally:
            self._may_pass.set()

    @contextmanager
    def lossy(self) -> Iterator[None]:
        """Lose every byte during the block, as a network that drops packets.

        A connection that lost one passes nothing on after it either, and is never closed by us.
        """
        self._lossy.set()
        try:
            yield
        finally:
            self._lossy.clear()

    def run(self) -> None:
        """Accept connections until the relay is closed."""
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._sockets.append(near)
            if self._upstream is not None:
                far = socket.socket(socket.AF_UNIX)
                self._sockets.append(far)
                try:
                    far.connect(self._upstream)
                except OSError:  # the server is down
                    near.close()
                    continue
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=ends, daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        has_lost = False
        with suppress(OSError), ExitStack() as stack:
            stack.callback(lambda: None if has_lost else _shut(target))
            while data := source.recv(65536):
                self._may_pass.wait()
                has_lost = has_lost or self._lossy.is_set()
                if not has_lost:
                    target.sendall(data)

    def close(self) -> None:
        """Cut every connection."""
        self._may_pass.set()
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def _shut(target: socket.socket) -> None:
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextmanager
def relay(upstream: Upstream = None) -> Iterator[Relay]:
    """Run a relay until the block ends; without a server it is silent from the beginning."""
    running = Relay(upstream)
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        yield running
    finally:
        running.close()
        thread.join()
