"""A flood: repeats the same requests at a fixed rate until its standard input ends.

``python -m tests.bench.flooder PORT FILE SIZE CONNECTIONS PACE`` sends the requests in FILE (each
of SIZE bytes), PACE per second in all, and connects again when the server closes a connection. It
prints a line after the first answer, and at the end one JSON object: ``seconds`` and ``statuses``.
"""

import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from tests.bench.load import Connection


class Flooder:
    """One connection's part of the flood."""

    def __init__(
        self,
        port: int,
        requests: list[bytes],
        pace: float,
        delay: float,
        stop: threading.Event,
    ) -> None:
        self.statuses: Counter[int] = Counter()
        self._port = port
        self._requests = requests
        self._pause = 1 / pace
        self._delay = delay
        self._stop = stop

    def run(self) -> None:
        """Send until stopped, no faster than the pace."""
        connection, due = Connection(self._port), time.monotonic() + self._delay
        for number in range(10**9):
            if self._stop.wait(max(0.0, due - time.monotonic())):
                break
            due = max(
                due + self._pause, time.monotonic() - 1
            )  # requests that could not be sent in time are left out
            try:
                connection = self._ask(connection, self._requests[number % len(self._requests)])
            except OSError:  # the server hung up: after a 413 it does
                connection = Connection(self._port)
        connection.socket.close()

    def _ask(self, connection: Connection, request: bytes) -> Connection:
        connection.send(0, memoryview(request))
        while (status := connection.receive()) is None:
            pass
        self.statuses[status] += 1
        if b"connection: close" in connection.answer.lower():
            connection.socket.close()
            return Connection(self._port)
        return connection


def main() -> None:
    """Read the arguments, flood, print what was answered."""
    port, file, size, width, pace = (
        int(sys.argv[1]),
        Path(sys.argv[2]),
        int(sys.argv[3]),
        int(sys.argv[4]),
        float(sys.argv[5]),
    )
    data, stop = file.read_bytes(), threading.Event()
    requests = [data[at : at + size] for at in range(0, len(data), size)]
    # Each connection begins a little later than the one before: a rate, not bursts of ``width``.
    flooders = [
        Flooder(port, requests, pace / width, number / pace, stop) for number in range(width)
    ]
    threads = [threading.Thread(target=flooder.run) for flooder in flooders]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    while not any(flooder.statuses for flooder in flooders):
        time.sleep(0.01)
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join(30)
    statuses = sum((flooder.statuses for flooder in flooders), Counter[int]())
    sys.stdout.write(json.dumps({"seconds": time.monotonic() - started, "statuses": statuses}))


if __name__ == "__main__":
    main()
