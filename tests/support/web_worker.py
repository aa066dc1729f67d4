"""One worker process of gunicorn, as a thread of this process; it serves any WSGI application."""

import os
import re
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gunicorn.config import Config  # type: ignore[import-untyped]  # the package has no types
from gunicorn.sock import TCPSocket  # type: ignore[import-untyped]  # as above

from receiver.server.gunicorn_log import GunicornLog
from receiver.server.gunicorn_worker import DrainingWorker

_LENGTH = re.compile(rb"Content-Length: (\d+)\r\n")


@contextmanager
def web_worker(app: Any, **options: Any) -> Iterator[tuple[DrainingWorker, tuple[str, int]]]:
    """Serve ``app``, and give the worker and its address; ``options`` are gunicorn's settings."""
    config = Config()
    for name, value in options.items():
        config.set(name, value)
    log = GunicornLog(config)
    listener = TCPSocket(("127.0.0.1", 0), config, log)
    worker = DrainingWorker(1, os.getppid(), [listener], None, 30, config, log)
    worker.tpool, worker.poller = worker.get_thread_pool(), selectors.DefaultSelector()
    worker.method_queue.init()
    worker.wsgi = app
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield worker, listener.sock.getsockname()
    finally:
        worker.handle_exit(15, None)
        thread.join(20)
        worker.tpool.shutdown()
        worker.tmp.close()
        assert not thread.is_alive()


def received(connection: socket.socket) -> bytes:
    """Return one answer; nothing at the end of the connection."""
    answer = b""
    while not answer.endswith(b"\r\n\r\n") and (piece := connection.recv(1)):
        answer += piece
    length = _LENGTH.search(answer)
    return answer + (connection.recv(int(length[1]), socket.MSG_WAITALL) if length else b"")
