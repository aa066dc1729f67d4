"""A name for each request: on every log line it causes, and in its answer, so that the two can be brought together."""

import re
from secrets import token_hex

from flask import Flask, Response, g, request
from structlog.contextvars import bind_contextvars, unbind_contextvars

HEADER = "X-Request-Id"

# What a proxy in front of us may have named it; anything else is not repeated.
_PLAIN = re.compile(r"[A-Za-z0-9._-]{8,64}", re.ASCII)


def name_requests(app: Flask) -> None:
    """Have the application name its requests."""
    app.before_request(_begin)
    app.after_request(_tell)
    app.teardown_request(_end)


def _begin() -> None:
    given = request.headers.get(HEADER, "")
    g.request_id = given if _PLAIN.fullmatch(given) else token_hex(8)
    bind_contextvars(request=g.request_id)


def _tell(response: Response) -> Response:
    response.headers[HEADER] = g.request_id
    return response


def _end(_error: BaseException | None) -> None:
    unbind_contextvars("request")
