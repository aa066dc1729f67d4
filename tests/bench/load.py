"""A cheap load generator: one thread, raw sockets, prepared requests. Runs in its own process.

``python -m tests.bench.load PORT FILE SIZE CONNECTIONS`` sends each request in FILE (each of SIZE
bytes) once over keep-alive connections, the next one on a connection after the last answer. It
prints one JSON object: ``seconds`` from the first byte to the last answer, ``latencies`` in
seconds, ``statuses``, and ``acknowledged``, the indexes in FILE of what was answered 200.
"""

import json
import re
import select
import socket
import sys
import time
from collections import Counter
from pathlib import Path

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


class Connection:
    """One keep-alive connection with at most one request in progress."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.place = -1
        self.sent_at = 0.0
        self.answer = b""

    def send(self, place: int, request: memoryview) -> None:
        """Send the request at this place of the file."""
        self.place, self.answer, self.sent_at = place, b"", time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> int | None:
        """Read what has come; return the status once the answer is complete."""
        piece = self.socket.recv(65536)
        if not piece:
            raise ConnectionError("the server hung up on a request")
        self.answer += piece
        end = self.answer.find(b"\r\n\r\n")
        length = _LENGTH.search(self.answer, 0, end) if end >= 0 else None
        if length is None or len(self.answer) < end + 4 + int(length[1]):
            return None
        return int(self.answer[9:12])


class Load:
    """Sends every request once."""

    def __init__(self, requests: bytes, size: int) -> None:
        self._requests = memoryview(requests)
        self._size = size
        self._next = 0
        self.latencies: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.acknowledged: list[int] = []

    def run(self, port: int, width: int) -> float:
        """Use this many connections until every request is answered; return the seconds it took."""
        poll = select.epoll()
        busy = {
            connection.socket.fileno(): connection
            for connection in (Connection(port) for _ in range(width))
        }
        started = time.perf_counter()
        for number, connection in list(busy.items()):
            poll.register(number, select.EPOLLIN)
            self._continue(busy, connection)
        while busy:
            for number, _ in poll.poll(30):
                self._hear(busy, busy[number])
        return time.perf_counter() - started

    def _hear(self, busy: dict[int, Connection], connection: Connection) -> None:
        status = connection.receive()
        if status is None:
            return
        self.latencies.append(time.perf_counter() - connection.sent_at)
        self.statuses[status] += 1
        if status == 200:
            self.acknowledged.append(connection.place)
        self._continue(busy, connection)

    def _continue(self, busy: dict[int, Connection], connection: Connection) -> None:
        """Send the next request on a free connection, or close it when there is none."""
        start = self._next * self._size
        if start >= len(self._requests):
            del busy[connection.socket.fileno()]
            connection.socket.close()
            return
        connection.send(self._next, self._requests[start : start + self._size])
        self._next += 1


def main() -> None:
    """Read the arguments, send the load, and print the results."""
    port, file, size, width = (
        int(sys.argv[1]),
        Path(sys.argv[2]),
        int(sys.argv[3]),
        int(sys.argv[4]),
    )
    load = Load(file.read_bytes(), size)
    seconds = load.run(port, width)
    seen = {
        "seconds": seconds,
        "latencies": load.latencies,
        "statuses": load.statuses,
        "acknowledged": load.acknowledged,
    }
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main()
