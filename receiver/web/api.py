"""The API for those who have ADMIN_TOKEN: jobs, their pictures, events, and the audit."""

import hmac
import json
import re
import threading
from collections.abc import Iterator
from typing import BinaryIO

from flask import Blueprint, Response, jsonify, request
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException

from receiver.archive.manifest import timestamp
from receiver.errors import ConfigurationError, LedgerError, ReceiverError
from receiver.job_request import JobRequest, mistakes
from receiver.ledger.rows import Asset, Job
from receiver.model import Api, AssetState, JobState, Mode, Provider
from receiver.views import JobView
from receiver.web.body import read_body
from receiver.web.state import services

blueprint = Blueprint("api", __name__, url_prefix="/api")

DEFAULT_LIMIT, MOST = 50, 500
BLOCK = 256 * 1024
# Bytes of a job's request; reference pictures may come along as data URIs.
LONGEST_REQUEST = 32 * 1024 * 1024
# Submits side by side in one process: each waits for the provider, and callbacks need threads too.
MOST_SUBMITS = 8

_submitting = threading.BoundedSemaphore(MOST_SUBMITS)


@blueprint.before_request
def require_token() -> Response | None:
    """Let nobody in without the token."""
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), services().admin_token.encode()):
        return None
    response = problem(401, "this needs the header Authorization: Bearer ADMIN_TOKEN")
    response.headers["WWW-Authenticate"] = "Bearer"
    return response


@blueprint.before_request
def refuse_nul() -> Response | None:
    """Refuse what no job can be called: PostgreSQL would take it for a broken question."""
    if "\x00" in request.path:
        return problem(404, "there is no such thing")
    return problem(400, "no name has a NUL character") if any("\x00" in text for text in request.args.values()) else None


@blueprint.get("/jobs")
def jobs() -> Response:
    """List jobs, newest first: ``state``, ``q`` (text in ref, provider id, model, prompt), ``limit``, ``after`` (a cursor)."""
    state, limit = request.args.get("state", ""), request.args.get("limit", str(DEFAULT_LIMIT))
    if state and state not in set(JobState):
        return problem(400, f"state is one of {', '.join(JobState)}")
    size = _number(limit)
    if not 1 <= size <= MOST:
        return problem(400, f"limit is a number from 1 to {MOST}")
    wanted = JobState(state) if state else None
    found = services().reports.jobs(state=wanted, search=request.args.get("q", ""), after=request.args.get("after", ""), limit=size + 1)
    page = found[:size]
    return jsonify(jobs=_views(page), next=page[-1].ref if len(found) > size else None)


@blueprint.post("/jobs")
def submit() -> Response:
    """Post a job to GRSAI; the header ``Idempotency-Key`` is its ``key``. 201 with the job, 200 with the one that has the key already.

    OpenAI is left to the ``submitter``: its answer is the result, and a web process that is restarted meanwhile would lose it.
    """
    try:
        asked = JobRequest.model_validate_json(read_body(LONGEST_REQUEST))
        if header := request.headers.get("Idempotency-Key"):
            asked = JobRequest.model_validate({**asked.model_dump(), "key": header})
    except ValidationError as error:
        return problem(400, "; ".join(mistakes(error)))
    if asked.provider is not Provider.GRSAI or asked.mode is Mode.SYNC or asked.api is Api.IMAGES:
        return problem(400, "this API posts to GRSAI only, with mode webhook, poll or stream; for OpenAI use the submitter")
    if asked.key and (holder := services().ledger.key_holder(asked.key)):
        return jsonify(_views([holder])[0])
    if not _submitting.acquire(blocking=False):
        return _unavailable(ReceiverError(f"{MOST_SUBMITS} submits are under way already"))
    try:
        made = services().desk.submit(asked.submission(), back_off=())
    except ConfigurationError as error:
        return problem(409, "; ".join(error.mistakes))
    finally:
        _submitting.release()
    services().engine.ring()
    response = jsonify(_views([made])[0])
    response.status_code = 201
    response.headers["Location"] = f"/api/jobs/{made.ref}"
    return response


@blueprint.get("/jobs/<ref>")
def job(ref: str) -> Response:
    """Show one job."""
    found = services().reports.job(ref)
    return jsonify(_views([found])[0]) if found else problem(404, f"there is no job {ref}")


@blueprint.post("/jobs/<ref>/retry")
def retry(ref: str) -> Response:
    """Open a failed or expired job again."""
    if services().reports.job(ref) is None:
        return problem(404, f"there is no job {ref}")
    try:
        again = services().ledger.retry(ref)
    except LedgerError:
        raise
    except ReceiverError as error:
        return problem(409, str(error))
    services().engine.ring()
    return jsonify(_views([again])[0])


@blueprint.get("/jobs/<ref>/assets/<int:index>")
def asset(ref: str, index: int) -> Response:
    """Return an archived file's bytes, never as anything a browser would run."""
    found = next((row for row in services().reports.assets([ref])[ref] if row.idx == index), None)
    if found is None or found.state is not AssetState.ARCHIVED or found.key is None:
        return problem(404, f"{ref} has no archived asset {index}")
    source = services().store.open(found.key)
    response = Response(_blocks(source), content_type=found.content_type)
    response.call_on_close(source.close)  # not left to the generator: one that never ran, as for a HEAD, closes nothing
    response.headers.update(_harmless(found))
    return response


def _blocks(source: BinaryIO) -> Iterator[bytes]:
    while block := source.read(BLOCK):
        yield block


def _harmless(found: Asset) -> dict[str, str]:
    name = (found.key or "").rpartition("/")[2]
    return {
        "Content-Length": str(found.size),
        "Content-Disposition": f'attachment; filename="{found.ref}-{name}"',
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "ETag": f'"{found.sha256}"',
    }


@blueprint.get("/events")
def events() -> Response:
    """List events after the one numbered ``after``, oldest first."""
    after = _number(request.args.get("after", "0"))
    if after < 0:
        return problem(400, "after is the id of an event")
    found = services().reports.events(after=after)
    shown = [
        {"id": row["id"], "type": row["type"], "timestamp": timestamp(row["created_at"]), "data": json.loads(row["payload"])}
        for row in found
    ]
    return jsonify(events=shown, next=found[-1]["id"] if found else None)


@blueprint.get("/audit")
def audit() -> Response:
    """Check the ledger's laws and show the figures."""
    found = services().reports.audit()
    return jsonify(
        ok=found.ok,
        submitted=found.submitted,
        archived=found.archived,
        failed=found.failed,
        expired=found.expired,
        in_flight=found.in_flight,
        difference=found.difference,
        broken=found.broken,
    )


def _number(text: str) -> int:
    """Read a number of up to 18 digits, which every database can hold; -1 for anything else."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else -1


def _views(found: list[Job]) -> list[dict[str, object]]:
    assets = services().reports.assets([job.ref for job in found])
    return [JobView.of(job, assets[job.ref]).model_dump(mode="json") for job in found]


def problem(status: int, detail: str) -> Response:
    """Answer with an error as RFC 9457 has it."""
    response = jsonify(type="about:blank", status=status, detail=detail)
    response.status_code = status
    response.content_type = "application/problem+json"
    return response


@blueprint.errorhandler(ReceiverError)
def _unavailable(error: ReceiverError) -> Response:
    response = problem(503, str(error))
    response.headers["Retry-After"] = "5"
    return response


@blueprint.errorhandler(HTTPException)
def _http_error(error: HTTPException) -> Response:
    return problem(error.code or 500, error.description or "")
