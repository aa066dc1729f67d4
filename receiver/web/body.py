"""Reading a request's body: whole, and never more than was allowed, whatever its headers say."""

from flask import request
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge


def read_body(most: int) -> bytes:
    """Return the body; raise RequestEntityTooLarge for more than ``most`` bytes, ClientDisconnected for one that was cut short."""
    # One more than we take: of a body in chunks, which tells no length, werkzeug reads so much and says nothing of the rest.
    request.max_content_length = most + 1
    try:
        body = request.get_data(cache=False)
    except BlockingIOError as error:  # the connection fell silent: see gunicorn_conf.SILENCE
        raise ClientDisconnected from error
    if len(body) > most:
        raise RequestEntityTooLarge
    if len(body) < (request.content_length or 0):
        # gunicorn takes the end of a broken connection for the end of the body.
        raise ClientDisconnected
    return body
