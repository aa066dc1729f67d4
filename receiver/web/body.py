"""Reads a request body completely, within a size limit, whatever the request's headers say.

Also tells whether the client has disconnected.
"""

import socket

from flask import request
from gunicorn.http.errors import ParseException  # type: ignore[import-untyped]  # the package has no types
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

# Bytes read at a time. If the body breaks off, the earlier pieces are known.
_PIECE = 64 * 1024


class CutShortError(ClientDisconnected):
    """The body is incomplete: the connection broke, timed out, or did not follow HTTP's rules.

    ``body`` is what was received.
    """

    def __init__(self, body: bytes) -> None:
        super().__init__("the body was cut short")
        self.body = body


def read_body(max_bytes: int) -> bytes:
    """Return the request body.

    Raise RequestEntityTooLarge if it is longer than ``max_bytes``, CutShortError if it is
    incomplete.
    """
    announced = request.content_length
    if (announced or 0) > max_bytes:
        raise RequestEntityTooLarge  # before reading any of it
    # One more than allowed: a chunked body has no length, and werkzeug silently stops here.
    request.max_content_length = max_bytes + 1
    stream, expected = request.stream, max_bytes + 1 if announced is None else announced
    body = bytearray()
    try:
        while len(body) < expected and (piece := stream.read(min(_PIECE, expected - len(body)))):
            body += piece
    except (ClientDisconnected, ParseException, OSError) as error:
        # The sender disconnected, broke HTTP's rules, or was silent (see
        # gunicorn_conf.READ_TIMEOUT).
        raise CutShortError(bytes(body) + _read_ahead()) from error
    if len(body) > max_bytes:
        raise RequestEntityTooLarge
    if len(body) < (announced or 0):
        # gunicorn takes the end of a broken connection for the end of the body.
        raise CutShortError(bytes(body))
    return bytes(body)


def _read_ahead() -> bytes:
    """Return what gunicorn has received but not yet returned.

    It waits until the piece asked for is complete; at the end of the connection it returns it.
    """
    connection = request.environ.get("gunicorn.socket")
    if connection is None:
        return b""
    try:
        connection.shutdown(socket.SHUT_RD)
        return bytes(request.environ["wsgi.input"].read(_PIECE))
    except (ParseException, OSError):  # the connection was reset, or the rest is not HTTP
        return b""


def is_closed(connection: socket.socket | None) -> bool:
    """Return whether the client has disconnected; a write would fail only later."""
    if connection is None:
        return False
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False  # open, and the client sends nothing, as it should
    except OSError:
        return True
