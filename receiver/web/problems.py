"""Error responses of the API, as RFC 9457 defines them."""

from flask import Response
from werkzeug.http import HTTP_STATUS_CODES

from receiver.jobs.schemas import ProblemView
from receiver.telemetry.printable import printable

# Seconds after which a client may try again when the ledger or the archive is unavailable.
RETRY_AFTER = 5


def problem(status: int, detail: str, *, retry_after: int | None = None) -> Response:
    """Return an error response; ``retry_after`` in seconds."""
    title = HTTP_STATUS_CODES.get(status, "Error")
    shown = ProblemView(title=title, status=status, detail=detail).model_dump_json()
    body = printable(shown, as_json=True)
    response = Response(body, status=status, content_type="application/problem+json")
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    return response
