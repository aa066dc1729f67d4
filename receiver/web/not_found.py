"""Requests that no route takes: the API tells them as problems, everybody else gets a designed page."""

from flask import Response, request
from werkzeug.http import HTTP_STATUS_CODES

from receiver.web.dashboard import stranger_message
from receiver.web.problems import problem


def tell(response: Response) -> Response:
    """Dress the answer to a request whose path or method is not known; callbacks have their own words for it."""
    status = response.status_code
    if status < 400 or request.endpoint not in {None, "static"} or is_callback(request.path):  # noqa: PLR2004 - HTTP's first error
        return response
    if request.path.startswith("/api/") or request.path == "/openapi.json":
        told = problem(status, HTTP_STATUS_CODES.get(status, "").lower())
    else:
        told = stranger_message(status, "error_405" if status == 405 else "error_404")  # noqa: PLR2004 - HTTP's number
    if "Allow" in response.headers:
        told.headers["Allow"] = response.headers["Allow"]
    return told


def is_callback(path: str) -> bool:
    """Say whether somebody meant a callback, whatever the number of slashes."""
    return path.lstrip("/").startswith("callback")
