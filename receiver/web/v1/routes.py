"""The operations: make pictures, list models.

The ``openai`` package repeats a request whose answer it did not get, by default without an
``Idempotency-Key``; but it counts the repetitions in a header. So each request gets a key made from
its body, and a repetition finds the job of the first request by this key.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Iterator, Sequence

import structlog
from flask import Response, request
from pydantic import ValidationError

from receiver import clock
from receiver.errors import ReceiverError, mistakes_in
from receiver.jobs.images_api import (
    ImagesErrorView,
    ImagesRequest,
    ImagesView,
    ModelList,
    ModelView,
)
from receiver.jobs.job_object import JobView
from receiver.jobs.request import DEFAULT_MODEL, GrsaiRequest
from receiver.jobs.schemas import JobList
from receiver.ledger.rows import Job
from receiver.model import FINAL_STATES, Mode, Provider, Reason, new_ref
from receiver.web.api.base import json_of
from receiver.web.api.jobs import KEY, MAX_REQUEST_BYTES, job_views, post_job
from receiver.web.api.operations import ResponseDoc, documented
from receiver.web.body import read_body
from receiver.web.state import services
from receiver.web.v1 import waiting_clients
from receiver.web.v1.errors import blueprint, failure, job_failure
from receiver.web.v1.picture_response import answer

log = structlog.get_logger(__name__)

# Seconds until a client tries again when too many wait, and when its pictures take longer.
_RETRY_IF_FULL, _RETRY_IF_LATE = 15, 1
# Seconds within which an equal request counts as a repetition: the ``openai`` package repeats a
# request twice, each time after ten minutes.
_REPEATED_WITHIN = 1900.0
_HEADERS = {
    "Idempotency-Key": {"type": "string", "pattern": f"^{KEY}$"},
    "Prefer": {"type": "string", "examples": ["respond-async", "respond-async, wait=20"]},
}
_PROBLEMS = {
    400: "invalid request, refused by the provider (`provider_refused`) or by its moderation "
    "(`moderation_blocked`)",
    409: "the Idempotency-Key belongs to a job that was asked for something else",
    413: "body too large",
    429: "too many clients are waiting",
    500: "the job failed; `code` says why",
    504: "the pictures are not archived yet; a repetition of the request waits for the same job",
}


@blueprint.get("/v1/models")
@documented(
    "List models, as OpenAI does",
    {200: ResponseDoc("the default model, and those of earlier jobs", ModelList)},
    problem_model=ImagesErrorView,
)
def models() -> Response:
    """List models: tools test their settings by it. Every other name is passed on too.

    A model of another provider than GRSAI is named as a request must name it, with the provider
    before it. OpenAI's are left out: this API does not post to OpenAI.
    """
    named = {
        model if provider == Provider.GRSAI else f"{provider}/{model}"
        for model, provider in services().job_list.models_with_provider()
        if provider != Provider.OPENAI
    }
    found = sorted({DEFAULT_MODEL, *named})
    return json_of(ModelList(data=[ModelView(id=name) for name in found]))


@blueprint.post("/v1/images/generations")
@documented(
    "Make pictures, as OpenAI's Images API does",
    {
        200: ResponseDoc("the pictures, archived", ImagesView, headers=("Location",)),
        202: ResponseDoc(
            "with `Prefer: respond-async`: the job; for several pictures a JobList",
            JobView,
            headers=("Location", "Preference-Applied"),
        ),
    },
    body=ImagesRequest,
    headers=_HEADERS,
    problems=_PROBLEMS,
    problem_model=ImagesErrorView,
)
def generations() -> Response:
    """Post the job, or the jobs, and answer when the pictures are archived."""
    slots = waiting_clients.slots()
    if not slots.acquire(blocking=False):
        return _too_many()
    try:
        response = _generate()
    except BaseException:
        slots.release()
        raise
    response.call_on_close(slots.release)  # pictures are still being sent
    return response


def _generate() -> Response:
    header = request.headers.get("Idempotency-Key")
    if header is not None and not re.fullmatch(KEY, header):
        text = "Idempotency-Key: write 1 to 500 printable ASCII characters"
        return failure(400, text, "invalid_header")
    body = read_body(MAX_REQUEST_BYTES)
    mode = Mode.WEBHOOK if services().settings.public_url else Mode.POLL
    try:
        asked = ImagesRequest.model_validate_json(body)
        wanted = asked.job_requests(mode)
        own = wanted[0].key
        if header is not None and own not in (None, header):
            text = "key: it differs from Idempotency-Key; give one of them"
            return failure(409, text, "idempotency_conflict", param="key")
        keyed = [
            GrsaiRequest.model_validate({**one.model_dump(), "key": key})
            for one, key in zip(wanted, _keys(header or own, body, len(wanted)), strict=True)
        ]
    except ValidationError as error:
        return _invalid(error)
    began = time.monotonic()
    return _respond(asked, list(_posted(keyed)), began)


def _posted(keyed: Sequence[GrsaiRequest]) -> Iterator[Job]:
    """Post jobs and yield them, until the provider refuses one: it would refuse the others too."""
    for one in keyed:
        job, _ = post_job(one.submission())
        yield job
        if job.reason is Reason.REFUSED:
            return


def _keys(given: str | None, body: bytes, count: int) -> list[str]:
    """Return the key of each job: the one that was given, or one made of the body."""
    base = given or _made_key(body)
    if count == 1:
        return [base]
    return [f"{base} ({number} of {count})" for number in range(1, count + 1)]


def _made_key(body: bytes) -> str:
    """Return a new key, or for a repetition that of the newest job with this body."""
    prefix = f"images-{hashlib.sha256(body).hexdigest()[:32]}-"
    if request.headers.get("X-Stainless-Retry-Count", "0") != "0":
        since = new_ref(clock.now() - _REPEATED_WITHIN)
        if known := services().queries.newest_key(prefix, since):
            return known.partition(" ")[0]
    return prefix + secrets.token_hex(8)


def _respond(asked: ImagesRequest, jobs: Sequence[Job], began: float) -> Response:
    """Wait for the jobs and answer."""
    refs = [job.ref for job in jobs]
    seconds, accepts_202 = waiting_clients.preferred_wait()
    has_disconnected, is_stopping = waiting_clients.has_disconnected(), waiting_clients.stopping()
    found = waiting_clients.wait(
        services(), refs, seconds, lambda: has_disconnected() or is_stopping()
    )
    took = round(time.monotonic() - began, 3)
    if all(job.state in FINAL_STATES for job in found):
        log.info("images request answered", refs=refs, seconds=took)
        response = answer(asked, found) or job_failure(found[0])
    elif accepts_202:
        response = _accepted(found)
    elif is_stopping():
        raise ReceiverError("the service restarts; repeat the request, it waits for the same job")
    else:
        log.info("images request ended before its jobs", refs=refs, seconds=took)
        response = _late(refs)
    response.headers["Location"] = f"/api/jobs/{refs[0]}"
    return response


def _accepted(jobs: Sequence[Job]) -> Response:
    views = job_views(list(jobs))
    several = JobList(jobs=views, next=None)
    response = json_of(views[0], 202) if len(views) == 1 else json_of(several, 202)
    response.headers["Preference-Applied"] = "respond-async"
    return response


def _late(refs: Sequence[str]) -> Response:
    text = f"not archived yet, go on without this request: GET /api/jobs/{refs[0]}"
    return failure(504, text, "timeout", kind="server_error", retry_after=_RETRY_IF_LATE)


def _too_many() -> Response:
    most = services().settings.waiting_clients
    return failure(
        429,
        f"{most} clients are waiting for pictures already (WAITING_CLIENTS); try again later, or "
        "send Prefer: respond-async",
        "rate_limit_exceeded",
        kind="rate_limit_error",
        retry_after=_RETRY_IF_FULL,
    )


def _invalid(error: ValidationError) -> Response:
    """Return every mistake; ``param`` is the first field, by the caller's name for it."""
    mistakes = [(_NAMES.get(field, field), text) for field, text in mistakes_in(error)]
    named = [f"{field}: {text}" if field else text for field, text in mistakes]
    param = mistakes[0][0] or mistakes[0][1].partition(":")[0]
    known = param if param in ImagesRequest.model_fields or mistakes[0][0] else None
    return failure(400, "; ".join(named), "invalid_value", param=known)


_NAMES = {"variants": "n"}
