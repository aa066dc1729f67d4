"""A cheap file server: answers every GET with the same PNG picture of 1 MB, with sendfile.

``python -m tests.bench.files PORT FILE [SECONDS]`` serves FILE, SECONDS after each request, until
it is ended.
"""

import random
import socket
import socketserver
import struct
import sys
import time
import zlib
from pathlib import Path

_SIDE = 577  # pixels; 577 × (1 + 3 × 577) bytes are just under a megabyte
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def picture() -> bytes:
    """Draw coloured noise, which no compression makes smaller: a PNG of 1.0 MB."""
    noise = random.Random(0)  # noqa: S311 - filling, not a secret
    rows = b"".join(b"\0" + noise.randbytes(3 * _SIDE) for _ in range(_SIDE))
    header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)
    return b"".join(
        [
            _SIGNATURE,
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", zlib.compress(rows, 0)),
            _chunk(b"IEND", b""),
        ]
    )


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


class FileResponder(socketserver.BaseRequestHandler):
    """Answers one request on one connection."""

    request: socket.socket
    server: "Server"

    def handle(self) -> None:
        """Read the head of the request, whatever it asks for, and send the file."""
        asked = b""
        while not asked.endswith(b"\r\n\r\n"):
            piece = self.request.recv(4096)
            if not piece:  # the client only checked that we are there
                return
            asked += piece
        time.sleep(self.server.delay)
        with self.server.path.open("rb") as file:
            head = (
                "HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"
                f"Content-Length: {self.server.size}\r\nConnection: close\r\n\r\n"
            )
            self.request.sendall(head.encode())
            self.request.sendfile(file)


class Server(socketserver.ThreadingTCPServer):
    """Listens on 127.0.0.1."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, path: Path, delay: float) -> None:
        super().__init__(("127.0.0.1", port), FileResponder)
        self.path = path
        self.delay = delay
        self.size = path.stat().st_size


if __name__ == "__main__":
    wait = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    Server(int(sys.argv[1]), Path(sys.argv[2]), wait).serve_forever()
