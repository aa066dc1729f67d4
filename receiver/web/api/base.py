"""What all API routes share: the access check, query parsing, response headers and errors."""

from typing import TypeVar

import structlog
from flask import Blueprint, Response, request
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import BadRequest, HTTPException

from receiver.errors import ReceiverError
from receiver.jobs.request import mistakes
from receiver.telemetry.printable import printable
from receiver.web import auth
from receiver.web.problems import RETRY_AFTER, problem

log = structlog.get_logger(__name__)

blueprint = Blueprint("api", __name__)

Q = TypeVar("Q", bound=BaseModel)


@blueprint.before_request
def require_token() -> Response | None:
    """Require the bearer token; for reading, the dashboard's session is enough."""
    try:
        if auth.has_bearer() or (request.method in {"GET", "HEAD"} and auth.is_logged_in()):
            return None
    except auth.TooManyGuessesError as error:
        return problem(429, str(error), retry_after=error.seconds)
    response = problem(401, "this needs the header Authorization: Bearer ADMIN_TOKEN")
    response.headers["WWW-Authenticate"] = "Bearer"
    return response


@blueprint.before_request
def refuse_nul() -> Response | None:
    """Refuse a NUL in the path: no job has one, and PostgreSQL reports it as a malformed query."""
    return problem(404, "there is no such thing") if "\x00" in request.path else None


@blueprint.after_request
def add_private_headers(response: Response) -> Response:
    """Forbid caches to store the response, and browsers to guess its type."""
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    return response


def read_query(model: type[Q]) -> Q:
    """Return the query string as a model; raise BadRequest that names every mistake.

    An unknown name is a mistake: a misspelt condition must not be ignored.
    """
    given = request.args.to_dict(flat=False)
    if twice := [name for name, values in given.items() if len(values) > 1]:
        raise BadRequest(f"{', '.join(twice)}: given more than once")
    try:
        return model.model_validate({name: values[0] for name, values in given.items()})
    except ValidationError as error:
        raise BadRequest("; ".join(mistakes(error))) from error


def json_of(model: BaseModel, status: int = 200) -> Response:
    """Return a response with the model as JSON."""
    body = printable(model.model_dump_json(), as_json=True)
    return Response(body, status=status, content_type="application/json")


@blueprint.errorhandler(ReceiverError)
def unavailable(error: ReceiverError) -> Response:
    """Return 503: the ledger, the archive or the provider is unavailable."""
    return problem(503, str(error), retry_after=RETRY_AFTER)


@blueprint.errorhandler(HTTPException)
def _http_error(error: HTTPException) -> Response:
    return problem(error.code or 500, error.description or "")


@blueprint.errorhandler(Exception)
def _server_error(error: Exception) -> Response:
    log.error("API request failed", path=request.path, exc_info=error)
    return problem(500, "this is a bug of the service; its log has the details")
