"""Jobs: list them, post one, look at one, try one again."""

import re
import threading

from flask import Response, request
from pydantic import ValidationError

from receiver.errors import ConfigurationError, KeyTakenError, LedgerError, ReceiverError
from receiver.jobs import operator
from receiver.jobs.request import GrsaiRequest, mistakes
from receiver.jobs.schemas import (
    DeliveryList,
    DeliveryView,
    JobList,
    JobsQuery,
    JobView,
    VerdictView,
    seconds_of,
)
from receiver.ledger.browse import Wanted
from receiver.ledger.rows import Job
from receiver.web.api.base import blueprint, json_of, read_query, unavailable
from receiver.web.api.operations import Answer, described
from receiver.web.body import read_body
from receiver.web.problems import problem
from receiver.web.state import services

# Bytes of a job's request; reference pictures may come along as data URIs.
LONGEST_REQUEST = 32 * 1024 * 1024
# Submits side by side in one process: each waits for the provider, and callbacks need threads too.
MOST_SUBMITS = 8

_submitting = threading.BoundedSemaphore(MOST_SUBMITS)
_NO_JOB = {404: "there is no such job"}
_KEY = "[!-~]([ -~]{0,498}[!-~])?"
_KEY_HEADER = {"Idempotency-Key": {"type": "string", "pattern": f"^{_KEY}$"}}


@blueprint.get("/api/jobs")
@described(
    "List jobs, newest first",
    {200: Answer("a page", JobList)},
    query=JobsQuery,
    problems={400: "a wrong question"},
)
def jobs() -> Response:
    """List jobs, newest first."""
    asked = read_query(JobsQuery)
    wanted = Wanted(
        asked.state, asked.model, asked.q.strip(), seconds_of(asked.since), seconds_of(asked.until)
    )
    page = services().browse.page(wanted, asked.after, asked.limit)
    return json_of(JobList(jobs=views(page.jobs), next=page.next))


@blueprint.post("/api/jobs")
@described(
    "Post a job to GRSAI",
    {
        200: Answer("the job that has the key already", JobView, headers=("Location",)),
        201: Answer("the job", JobView, headers=("Location",)),
    },
    body=GrsaiRequest,
    headers=_KEY_HEADER,
    problems={400: "not a job", 409: "a setting is missing", 413: "too large"},
)
def submit() -> Response:
    """Post a job to GRSAI; the header ``Idempotency-Key`` is its ``key``. 201 with the job, 200 with the one that has the key already."""
    header = request.headers.get("Idempotency-Key")
    if header is not None and not re.fullmatch(_KEY, header):
        return problem(
            400,
            "Idempotency-Key: up to 500 ASCII characters, and not empty: a key that says nothing would protect nothing",
        )
    try:
        asked = GrsaiRequest.model_validate_json(read_body(LONGEST_REQUEST))
        if header is not None:
            asked = GrsaiRequest.model_validate({**asked.model_dump(), "key": header})
    except ValidationError as error:
        return problem(400, "; ".join(mistakes(error)))
    try:
        job, posted = hand_in(asked)
    except ConfigurationError as error:
        return problem(409, "; ".join(error.mistakes))
    response = json_of(views([job])[0], 201 if posted else 200)
    response.headers["Location"] = f"/api/jobs/{job.ref}"
    return response


def hand_in(asked: GrsaiRequest) -> tuple[Job, bool]:
    """Post a job to GRSAI, if few enough are being posted; return it and True, or the one that has the key already and False.

    Raise ReceiverError, ConfigurationError where a setting is missing.
    """
    if asked.key and (holder := services().ledger.key_holder(asked.key)):
        return holder, False
    if not _submitting.acquire(blocking=False):
        raise ReceiverError(f"{MOST_SUBMITS} submits are under way already")
    try:
        job = services().submit_service.post(asked.submission(), back_off=())
    except KeyTakenError as taken:  # since we looked
        return services().ledger.job(taken.ref), False
    finally:
        _submitting.release()
    services().engine.notify()
    return job, True


@blueprint.get("/api/jobs/<ref>")
@described("Show one job", {200: Answer("the job", JobView)}, problems=_NO_JOB)
def job(ref: str) -> Response:
    """Show one job."""
    found = services().queries.job(ref)
    return json_of(views([found])[0]) if found else problem(404, f"there is no job {ref}")


@blueprint.post("/api/jobs/<ref>/retry")
@described(
    "Open a failed or expired job again",
    {200: Answer("the job, on its way again", JobView)},
    problems={**_NO_JOB, 409: "trying again cannot help this job"},
)
def retry(ref: str) -> Response:
    """Open a failed or expired job again."""
    if services().queries.job(ref) is None:
        return problem(404, f"there is no job {ref}")
    try:
        again = services().ledger.retry(ref)
    except LedgerError:
        raise
    except ReceiverError as error:
        return problem(409, str(error))
    services().engine.notify()
    return json_of(views([again])[0])


@blueprint.get("/api/jobs/<ref>/deliveries")
@described(
    "List what was reported about a job",
    {200: Answer("every delivery", DeliveryList)},
    problems=_NO_JOB,
)
def deliveries(ref: str) -> Response:
    """List what was reported about a job, without the bodies."""
    if services().queries.job(ref) is None:
        return problem(404, f"there is no job {ref}")
    return json_of(
        DeliveryList(
            deliveries=[DeliveryView.of(row) for row in services().queries.delivery_log(ref)]
        )
    )


@blueprint.post("/api/deliveries/<int:number>/replay")
@described(
    "Take a kept delivery in again",
    {200: Answer("what it is taken for now", VerdictView)},
    problems={404: "there is no such delivery", 409: "it still cannot be read"},
)
def replay(number: int) -> Response:
    """Take a kept delivery in again."""
    if number >= 2**63 or services().queries.delivery(number) is None:
        return problem(404, f"there is no delivery {number}")
    try:
        verdict = operator.replay(services().queries, services().inbox, number)
    except LedgerError as error:
        return unavailable(error)
    except ReceiverError as error:
        return problem(409, str(error))
    return json_of(VerdictView(id=number, verdict=verdict))


def views(found: list[Job]) -> list[JobView]:
    """Return job objects with their assets."""
    assets = services().queries.assets([job.ref for job in found])
    return [JobView.of(job, assets[job.ref]) for job in found]
