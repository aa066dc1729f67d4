"""Reading a request's body: whole, and never more than was allowed, whatever its headers say."""

import socket

from flask import request
from gunicorn.http.errors import ParseException  # type: ignore[import-untyped]  # the package has no types
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

# Bytes asked for at a time, so that of a body that breaks off what came before is known.
_PIECE = 64 * 1024


class CutShortError(ClientDisconnected):
    """A body that broke off, fell silent, or was no body by the rules of HTTP; ``body`` is what came of it."""

    def __init__(self, body: bytes) -> None:
        super().__init__("the body was cut short")
        self.body = body


def read_body(most: int) -> bytes:
    """Return the body; raise RequestEntityTooLarge for more than ``most`` bytes, CutShortError for one that is not whole."""
    if (request.content_length or 0) > most:
        raise RequestEntityTooLarge  # before a byte of it is read
    # One more than we take: of a body in chunks, which tells no length, werkzeug reads so much and says nothing of the rest.
    request.max_content_length = most + 1
    body = bytearray()
    try:
        while len(body) <= most and (
            piece := request.stream.read(min(_PIECE, most + 1 - len(body)))
        ):
            body += piece
    except (ClientDisconnected, ParseException, OSError) as error:
        # Hung up, or by the rules of HTTP no body, or fell silent: see gunicorn_conf.READ_TIMEOUT.
        raise CutShortError(bytes(body) + _left_in_line()) from error
    if len(body) > most:
        raise RequestEntityTooLarge
    if len(body) < (request.content_length or 0):
        # gunicorn takes the end of a broken connection for the end of the body.
        raise CutShortError(bytes(body))
    return bytes(body)


def _left_in_line() -> bytes:
    """Return what gunicorn has read, but holds back until the piece asked for is whole: at the connection's end it gives it out."""
    connection = request.environ.get("gunicorn.socket")
    if connection is None:
        return b""
    try:
        connection.shutdown(socket.SHUT_RD)
        return bytes(request.environ["wsgi.input"].read(_PIECE))
    except (ParseException, OSError):  # reset meanwhile, or nothing to be made sense of
        return b""
