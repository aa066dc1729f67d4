"""Holds connections open until its standard input ends; opens what is closed again.

``python -m tests.bench.holder PORT FILE`` reads pairs from the JSON file: how many connections, and
what is sent on each. It prints a line when all are open.
"""

import json
import selectors
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

# Connections opened in a hundredth of a second, at the beginning and again.
_OPENED = 20


def _hold(port: int, kinds: list[tuple[int, bytes]], stop: threading.Event) -> None:
    """Open connections and send on each what is to be sent; open what is closed again."""
    missing = [data for count, data in kinds for _ in range(count)]
    is_begun = False
    with selectors.DefaultSelector() as selector:
        while not stop.is_set():
            for data in missing[:_OPENED]:
                with suppress(OSError):
                    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
                    connection.sendall(data)
                    selector.register(connection, selectors.EVENT_READ, data)
                    missing.remove(data)
            if not missing and not is_begun:
                is_begun = True
                sys.stdout.write("begun\n")
                sys.stdout.flush()
            until = time.monotonic() + 0.01
            while (left := until - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    connection = key.fileobj  # type: ignore[assignment]  # a socket
                    with suppress(OSError):
                        if connection.recv(65536):
                            continue
                    selector.unregister(connection)
                    connection.close()
                    missing.append(key.data)


def main() -> None:
    """Read the arguments, and hold the connections until the standard input ends."""
    kinds = [(count, data.encode()) for count, data in json.loads(Path(sys.argv[2]).read_text())]
    stop = threading.Event()
    thread = threading.Thread(target=_hold, args=(int(sys.argv[1]), kinds, stop))
    thread.start()
    sys.stdin.read()
    stop.set()
    thread.join()


if __name__ == "__main__":
    main()
