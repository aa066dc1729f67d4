"""The blueprint of OpenAI's paths: the access check, and errors in OpenAI's form.

``x-should-retry`` says to the ``openai`` package whether it repeats the request by itself.
"""

import structlog
from flask import Blueprint, Response, request
from werkzeug.exceptions import HTTPException

from receiver.errors import (
    ConfigurationError,
    KeyConflictError,
    ReceiverError,
    RequestMistakeError,
)
from receiver.jobs.images_api import ImagesErrorView, ImagesFaultView
from receiver.ledger.rows import Job
from receiver.model import JobState, Reason
from receiver.telemetry.printable import printable
from receiver.web import auth
from receiver.web.problems import RETRY_AFTER

log = structlog.get_logger(__name__)

blueprint = Blueprint("v1", __name__)

_MODERATED = (Reason.INPUT_MODERATION, Reason.OUTPUT_MODERATION, Reason.VIOLATION)
_INVALID, _SERVER = "invalid_request_error", "server_error"


def failure(
    status: int,
    message: str,
    code: str,
    *,
    kind: str = _INVALID,
    param: str | None = None,
    retry_after: int | None = None,
) -> Response:
    """Return an error; with ``retry_after`` seconds the client may repeat the request."""
    fault = ImagesFaultView(message=message, type=kind, param=param, code=code)
    body = printable(ImagesErrorView(error=fault).model_dump_json(), as_json=True)
    response = Response(body, status=status, content_type="application/json")
    response.headers["X-Should-Retry"] = "false" if retry_after is None else "true"
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    return response


def job_failure(job: Job) -> Response:
    """Return why a job has no picture; a job that was posted is not repeated."""
    about = f"job {job.ref}: {job.message or job.reason or job.state}"
    if job.reason in _MODERATED:
        kind = "image_generation_user_error"
        return failure(400, about, "moderation_blocked", kind=kind)
    if job.reason is Reason.REFUSED and job.answered_at is None:
        return failure(503, about, "provider_away", kind=_SERVER, retry_after=RETRY_AFTER)
    if job.reason is Reason.REFUSED:
        return failure(400, about, "provider_refused")
    code = job.state if job.state is JobState.EXPIRED else (job.reason or job.state)
    return failure(500, about, code, kind=_SERVER)


@blueprint.before_request
def require_token() -> Response | None:
    """Require ADMIN_TOKEN, where tools have a field for OpenAI's key."""
    try:
        if auth.has_bearer():
            return None
    except auth.TooManyGuessesError as error:
        seconds = int(error.seconds) + 1
        return failure(
            429, str(error), "rate_limit_exceeded", kind="rate_limit_error", retry_after=seconds
        )
    response = failure(401, "the API key must be the service's ADMIN_TOKEN", "invalid_api_key")
    response.headers["WWW-Authenticate"] = "Bearer"
    return response


@blueprint.after_request
def add_private_headers(response: Response) -> Response:
    """Forbid caches to store the response."""
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    return response


@blueprint.errorhandler(ConfigurationError)
def _not_configured(error: ConfigurationError) -> Response:
    return failure(500, "; ".join(error.mistakes), "not_configured", kind=_SERVER)


@blueprint.errorhandler(RequestMistakeError)
def _mistake(error: RequestMistakeError) -> Response:
    field = error.mistakes[0].partition(":")[0]
    param = field if field in ("model", "webhook") else None
    return failure(400, "; ".join(error.mistakes), "invalid_value", param=param)


@blueprint.errorhandler(KeyConflictError)
def _conflict(error: KeyConflictError) -> Response:
    return failure(409, f"{error}: send another Idempotency-Key", "idempotency_conflict")


@blueprint.errorhandler(ReceiverError)
def _unavailable(error: ReceiverError) -> Response:
    return failure(503, str(error), "unavailable", kind=_SERVER, retry_after=RETRY_AFTER)


@blueprint.errorhandler(HTTPException)
def _http_error(error: HTTPException) -> Response:
    return failure(error.code or 500, error.description or "", "invalid_request")


@blueprint.errorhandler(Exception)
def _server_error(error: Exception) -> Response:
    log.error("images request failed", path=request.path, exc_info=error)
    text = "this is a bug of the service; its log has the details"
    return failure(500, text, "internal_error", kind=_SERVER)
