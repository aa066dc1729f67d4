"""Downloads of result files: whole and fast, or with a fault of the script.

The body generators write to the socket themselves: a whole file goes from disk to socket inside the
kernel, and the faults must cut, slow down and reset the connection. Their empty first piece makes
the server send the headers.
"""

import gzip
import os
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from werkzeug.wrappers import Response

from submitter.sandbox.files import Files, ResultFile
from submitter.sandbox.script import FileFault

_PAGE = "<html><head><title>{0}</title></head><body><h1>{0}</h1></body></html>"
_PIECES_PER_SECOND = 10


def html_page(status: int, text: str) -> Response:
    """Return the small HTML page that a file server sends instead of a file."""
    return Response(_PAGE.format(text), status, mimetype="text/html")


def download(
    file: ResultFile,
    files: Files,
    connection: socket.socket,
    stopping: threading.Event,
    *,
    plain: bool,
) -> Response:
    """Answer one GET of a file with the fault of its script; ``plain`` asks for none."""
    with file.lock:
        file.gets += 1
        script = (
            file.script
            if file.script.applies_to(file.gets) and not plain
            else FileFault(content_type=file.script.content_type)
        )
        # Counted before the first byte, so that a client that has the last byte sees the count.
        file.downloads += script.mode in ("ok", "expired", "slow", "odd")
    content_type = script.content_type or file.content_type
    return _page(script, content_type, file) or _file(
        script, content_type, files.open(file), connection, stopping
    )


def _page(script: FileFault, content_type: str, file: ResultFile) -> Response | None:
    """Return the answer of a fault that sends no file, else None."""
    match script.mode:
        case "not_ready":
            return html_page(404, "404 Not Found")
        case "error":
            return html_page(500, "500 Internal Server Error")
        case "placeholder":
            return Response(
                _PAGE.format("Your picture is being prepared"), content_type=content_type
            )
        case "empty":
            return Response(b"", content_type=content_type)
        case "redirect":
            return Response(
                status=302, headers={"Location": script.to or f"/file/{file.names[-1]}?plain=1"}
            )
    return None


def _file(
    script: FileFault,
    content_type: str,
    opened: BinaryIO,
    connection: socket.socket,
    stopping: threading.Event,
) -> Response:
    if script.mode == "odd":
        with opened:
            return _odd(script, content_type, opened.read())
    size = os.fstat(opened.fileno()).st_size
    answer = Response(_body(script, connection, opened, size, stopping), content_type=content_type)
    if script.mode != "truncated" or script.length:
        answer.content_length = int(size * script.at) if script.mode == "wrong_length" else size
    answer.call_on_close(opened.close)
    return answer


def _odd(script: FileFault, content_type: str, data: bytes) -> Response:
    """Return the whole file with an odd head or end."""
    headers = {}
    if script.status == 206:  # noqa: PLR2004 - HTTP's "Partial Content"
        headers["Content-Range"] = f"bytes 0-{len(data) - 1}/{len(data)}"
    if script.packed:
        data = gzip.compress(data, 1) if script.packed == "gzip" else zlib.compress(data, 1)
    if coding := script.coding or script.packed:
        headers["Content-Encoding"] = coding

    def pieces() -> Iterator[bytes]:
        yield data
        raise ConnectionAbortedError

    body = data if script.last_chunk else pieces()
    return Response(body, script.status, headers, content_type=content_type)


def _body(
    script: FileFault,
    connection: socket.socket,
    opened: BinaryIO,
    size: int,
    stopping: threading.Event,
) -> Iterator[bytes]:
    part = int(size * script.at)
    match script.mode:
        case "truncated" if not script.length:
            yield opened.read(part)
            return
        case "truncated":
            yield b""
            _send(connection, opened, part)
            raise ConnectionAbortedError
        case "reset":
            yield b""
            _send(connection, opened, part)
            _reset(connection)
        case "wrong_length":
            yield b""
            _send(connection, opened, size)
            raise ConnectionAbortedError  # the next answer must not follow the unannounced bytes
        case "slow":
            yield from _send_slowly(opened, script.rate, stopping)
        case _:
            yield b""
            _send(connection, opened, size)


def _send(connection: socket.socket, opened: BinaryIO, count: int) -> None:
    if count:  # sendfile raises for a count of 0
        connection.sendfile(opened, count=count)


def _send_slowly(opened: BinaryIO, rate: int, stopping: threading.Event) -> Iterator[bytes]:
    """Yield the file at ``rate`` bytes per second, until it ends or the sandbox stops."""
    piece = max(1, rate // _PIECES_PER_SECOND)
    started, sent = time.monotonic(), 0
    while data := opened.read(piece):
        yield data
        sent += len(data)
        if stopping.wait(max(0.0, started + sent / rate - time.monotonic())):
            raise ConnectionAbortedError


def _reset(connection: socket.socket) -> None:
    """Close with RST instead of FIN: lingering for zero seconds drops unsent data."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())
    raise ConnectionResetError
