"""Fetching a result file: whole and fast, or in one of the ways in which such downloads go wrong.

The pieces of an answer take the connection themselves: a whole file goes from disk to socket inside the kernel, and the faults need to
cut, drip and reset. The empty first piece makes the server send the headers.
"""

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO

from werkzeug.wrappers import Response

from submitter.sandbox.files import Files, ResultFile
from submitter.sandbox.script import File

_PAGE = "<html><head><title>{0}</title></head><body><h1>{0}</h1></body></html>"
_DRIPS_PER_SECOND = 10


def page(status: int, text: str) -> Response:
    """Give the small page that a file server shows instead of a file."""
    return Response(_PAGE.format(text), status, mimetype="text/html")


def download(
    file: ResultFile,
    files: Files,
    connection: socket.socket,
    stopping: threading.Event,
    *,
    plain: bool,
) -> Response:
    """Answer one GET of a file whose URL is alive, with the fault its script wants; ``plain`` asks for none."""
    with file.lock:
        file.gets += 1
        script = (
            file.script
            if file.script.suffers(file.gets) and not plain
            else File(content_type=file.script.content_type)
        )
        # Counted before the first byte, so that who has the last one finds it counted.
        file.downloads += script.mode in ("ok", "expired", "slow")
    content_type = script.content_type or file.content_type
    match script.mode:
        case "not_ready":
            return page(404, "404 Not Found")
        case "error":
            return page(500, "500 Internal Server Error")
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
    opened = files.open(file)
    size = os.fstat(opened.fileno()).st_size
    answer = Response(
        _pieces(script, connection, opened, size, stopping), content_type=content_type
    )
    if script.mode != "truncated" or script.length:
        answer.content_length = int(size * script.at) if script.mode == "wrong_length" else size
    answer.call_on_close(opened.close)
    return answer


def _pieces(
    script: File, connection: socket.socket, opened: BinaryIO, size: int, stopping: threading.Event
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
            raise ConnectionAbortedError  # the next answer must not follow what nobody was told of
        case "slow":
            yield from _drip(opened, script.rate, stopping)
        case _:
            yield b""
            _send(connection, opened, size)


def _send(connection: socket.socket, opened: BinaryIO, count: int) -> None:
    if count:  # sendfile takes a count of 0 for a mistake
        connection.sendfile(opened, count=count)


def _drip(opened: BinaryIO, rate: int, stopping: threading.Event) -> Iterator[bytes]:
    """Give the file at ``rate`` bytes per second, in ten pieces a second, until it ends or the sandbox stops."""
    piece = max(1, rate // _DRIPS_PER_SECOND)
    started, given = time.monotonic(), 0
    while data := opened.read(piece):
        yield data
        given += len(data)
        if stopping.wait(max(0.0, started + given / rate - time.monotonic())):
            raise ConnectionAbortedError


def _reset(connection: socket.socket) -> None:
    """Close at once with RST instead of FIN: lingering for zero seconds throws away what is unsent."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())
    raise ConnectionResetError
