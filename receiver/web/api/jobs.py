"""Jobs: list, submit, show and retry them, accept files, list and replay deliveries."""

import re
import threading

from flask import Response, request
from pydantic import ValidationError

from receiver.errors import (
    ConfigurationError,
    KeyConflictError,
    KeyTakenError,
    LedgerError,
    ReceiverError,
    StoreError,
)
from receiver.jobs.job_object import JobView
from receiver.jobs.request import GrsaiRequest, mistakes
from receiver.jobs.same_request import require_same_request
from receiver.jobs.schemas import (
    AcceptQuery,
    DeliveryList,
    DeliveryView,
    JobList,
    JobsQuery,
    VerdictView,
)
from receiver.ledger.rows import Job
from receiver.model import Submission
from receiver.web.api.base import blueprint, json_of, read_query, unavailable
from receiver.web.api.operations import ResponseDoc, documented
from receiver.web.body import read_body
from receiver.web.problems import problem
from receiver.web.state import services

# Bytes of a job request; reference images may be in it as data URIs.
MAX_REQUEST_BYTES = 32 * 1024 * 1024
# Concurrent submits of one process: each waits for the provider, and callbacks need threads too.
MAX_SUBMITS = 8

_submitting = threading.BoundedSemaphore(MAX_SUBMITS)
_NO_JOB = {404: "there is no such job"}
KEY = "[!-~]([ -~]{0,498}[!-~])?"
_KEY_HEADER = {"Idempotency-Key": {"type": "string", "pattern": f"^{KEY}$"}}


@blueprint.get("/api/jobs")
@documented(
    "List jobs, newest first",
    {200: ResponseDoc("a page of jobs", JobList)},
    query=JobsQuery,
    problems={400: "invalid query"},
)
def jobs() -> Response:
    """List jobs, newest first."""
    query = read_query(JobsQuery)
    if query.refs or query.key:
        return json_of(JobList(jobs=job_views(_named(query)), next=None))
    page = services().job_list.page(query.wanted(), query.after, query.limit)
    return json_of(JobList(jobs=job_views(page.jobs), next=page.next))


_CONFLICT = "the key belongs to a job that was asked for something else, or a setting is missing"


def _named(query: JobsQuery) -> list[Job]:
    """Return the jobs that ``refs`` or ``key`` name."""
    if query.refs:
        return services().queries.jobs_named(query.refs.split(","))
    holder = services().jobs.key_holder(query.key)
    return [holder] if holder else []


@blueprint.post("/api/jobs")
@documented(
    "Submit a job",
    {
        200: ResponseDoc("the job that already has this key", JobView, headers=("Location",)),
        201: ResponseDoc("the new job", JobView, headers=("Location",)),
    },
    body=GrsaiRequest,
    headers=_KEY_HEADER,
    problems={400: "invalid job request", 409: _CONFLICT, 413: "body too large"},
)
def submit() -> Response:
    """Submit a job to GRSAI; the header ``Idempotency-Key`` is its ``key``.

    Respond 201 with the new job, or 200 with the job that already has the key.
    """
    header = request.headers.get("Idempotency-Key")
    if header is not None and not re.fullmatch(KEY, header):
        return problem(400, "Idempotency-Key: write 1 to 500 printable ASCII characters")
    try:
        asked = GrsaiRequest.model_validate_json(read_body(MAX_REQUEST_BYTES))
        if header is not None and asked.key not in (None, header):
            return problem(409, "key: it differs from Idempotency-Key; give one of them")
        if header is not None:
            asked = GrsaiRequest.model_validate({**asked.model_dump(), "key": header})
    except ValidationError as error:
        return problem(400, "; ".join(mistakes(error)))
    try:
        job, is_new = submit_job(asked)
    except ConfigurationError as error:
        return problem(409, "; ".join(error.mistakes))
    except KeyConflictError as error:
        return problem(409, f"{error}: give it another key")
    response = json_of(job_views([job])[0], 201 if is_new else 200)
    response.headers["Location"] = f"/api/jobs/{job.ref}"
    return response


def submit_job(asked: GrsaiRequest) -> tuple[Job, bool]:
    """Submit a job; return it and True, or the job that already has its key and False.

    Raise ReceiverError if too many submits are in progress or the submit fails. Raise
    ConfigurationError if a setting is missing, KeyConflictError if the job that has the key had
    another request.
    """
    submission = asked.submission()
    if asked.key and (holder := services().jobs.key_holder(asked.key)):
        require_same_request(services().queries, holder, submission)
        return holder, False
    if not _submitting.acquire(blocking=False):
        raise ReceiverError(f"{MAX_SUBMITS} submits are in progress already")
    try:
        return post_job(submission)
    finally:
        _submitting.release()


def post_job(submission: Submission) -> tuple[Job, bool]:
    """Do the same as ``submit_job``, for callers whose own number is limited."""
    try:
        job = services().submit_service.post(submission, back_off=())
    except KeyTakenError as taken:
        holder = services().jobs.get(taken.ref)
        require_same_request(services().queries, holder, submission)
        return holder, False
    services().engine.notify()
    return job, True


@blueprint.get("/api/jobs/<ref>")
@documented("Show one job", {200: ResponseDoc("the job", JobView)}, problems=_NO_JOB)
def job(ref: str) -> Response:
    """Show one job."""
    found = services().queries.job(ref)
    return json_of(job_views([found])[0]) if found else problem(404, f"there is no job {ref}")


@blueprint.post("/api/jobs/<ref>/retry")
@documented(
    "Retry a failed or expired job",
    {200: ResponseDoc("the reopened job", JobView)},
    problems={**_NO_JOB, 409: "a retry cannot help this job"},
)
def retry(ref: str) -> Response:
    """Reopen a failed or expired job."""
    if services().queries.job(ref) is None:
        return problem(404, f"there is no job {ref}")
    try:
        reopened = services().operator.retry(ref)
    except LedgerError:
        raise
    except ReceiverError as error:
        return problem(409, str(error))
    services().engine.notify()
    return json_of(job_views([reopened])[0])


@blueprint.post("/api/jobs/<ref>/assets/<int:index>/accept")
@documented(
    "Accept the rejected file of an asset as its result",
    {200: ResponseDoc("the job, which ends again", JobView)},
    query=AcceptQuery,
    problems={
        400: "invalid query",
        404: "there is no such asset",
        409: "there is no such rejected file, or another file is archived",
    },
)
def accept(ref: str, index: int) -> Response:
    """Accept the rejected file of an asset; doing it again changes nothing."""
    query = read_query(AcceptQuery)
    if index not in {asset.idx for asset in services().queries.assets([ref])[ref]}:
        return problem(404, f"{ref} has no asset {index}")
    try:
        job = services().operator.accept(ref, index, query.sha256)
    except (LedgerError, StoreError):
        raise
    except ReceiverError as error:
        return problem(409, str(error))
    services().engine.notify()
    return json_of(job_views([job])[0])


@blueprint.get("/api/jobs/<ref>/deliveries")
@documented(
    "List the deliveries of a job",
    {200: ResponseDoc("all deliveries, without their bodies", DeliveryList)},
    problems=_NO_JOB,
)
def deliveries(ref: str) -> Response:
    """List the deliveries of a job, without their bodies."""
    if services().queries.job(ref) is None:
        return problem(404, f"there is no job {ref}")
    rows = services().queries.delivery_log(ref)
    return json_of(DeliveryList(deliveries=[DeliveryView.of(row) for row in rows]))


@blueprint.post("/api/deliveries/<int:number>/replay")
@documented(
    "Process a stored delivery again",
    {200: ResponseDoc("the new decision about it", VerdictView)},
    problems={404: "there is no such delivery", 409: "the delivery is still unreadable"},
)
def replay(number: int) -> Response:
    """Process a stored delivery again."""
    if number >= 2**63 or services().queries.delivery(number) is None:
        return problem(404, f"there is no delivery {number}")
    try:
        decision = services().operator.replay(number)
    except LedgerError as error:
        return unavailable(error)
    except ReceiverError as error:
        return problem(409, str(error))
    return json_of(VerdictView(id=number, verdict=decision))


def job_views(found: list[Job]) -> list[JobView]:
    """Return the job objects of the API, with their assets."""
    return services().job_objects.of(found)
