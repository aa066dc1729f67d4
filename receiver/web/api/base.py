"""The API's door: who may come in, how questions are read, and how errors are told."""

from typing import TypeVar

import structlog
from flask import Blueprint, Response, request
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import BadRequest, HTTPException

from receiver.errors import ReceiverError
from receiver.jobs.request import mistakes
from receiver.web import auth
from receiver.web.problems import RETRY_AFTER, problem

log = structlog.get_logger(__name__)

blueprint = Blueprint("api", __name__)

Q = TypeVar("Q", bound=BaseModel)


@blueprint.before_request
def require_token() -> Response | None:
    """Let nobody in without the token; the session of the dashboard may look, but changes need the bearer."""
    if auth.has_bearer() or (request.method in {"GET", "HEAD"} and auth.session()):
        return None
    response = problem(401, "this needs the header Authorization: Bearer ADMIN_TOKEN")
    response.headers["WWW-Authenticate"] = "Bearer"
    return response


@blueprint.before_request
def refuse_nul() -> Response | None:
    """Refuse what no job can be called: PostgreSQL would take it for a broken question."""
    return problem(404, "there is no such thing") if "\x00" in request.path else None


@blueprint.after_request
def keep_private(response: Response) -> Response:
    """Have nobody between us and the caller keep what is private."""
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    return response


def read_query(model: type[Q]) -> Q:
    """Read the question after the ``?``; raise BadRequest naming every mistake.

    A name nobody knows is one: a misspelt condition would give an answer to another question.
    """
    given = request.args.to_dict(flat=False)
    if twice := [name for name, values in given.items() if len(values) > 1]:
        raise BadRequest(f"{', '.join(twice)}: given more than once")
    try:
        return model.model_validate({name: values[0] for name, values in given.items()})
    except ValidationError as error:
        raise BadRequest("; ".join(mistakes(error))) from error


def json_of(model: BaseModel, status: int = 200) -> Response:
    """Answer with a model's JSON."""
    return Response(model.model_dump_json(), status=status, content_type="application/json")


@blueprint.errorhandler(ReceiverError)
def unavailable(error: ReceiverError) -> Response:
    """Tell that something we stand on is away."""
    return problem(503, str(error), retry_after=RETRY_AFTER)


@blueprint.errorhandler(HTTPException)
def _http_error(error: HTTPException) -> Response:
    return problem(error.code or 500, error.description or "")


@blueprint.errorhandler(Exception)
def _broken(error: Exception) -> Response:
    log.error("request broke off", path=request.path, exc_info=error)
    return problem(500, "this is a mistake of the service; its log says where")
