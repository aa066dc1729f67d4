"""The list of jobs and its search, one job with its timeline, and a delivery's raw body."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Response, request
from werkzeug.exceptions import NotFound

from receiver.jobs.schemas import JobsQuery
from receiver.ledger.claims import is_unexplained
from receiver.ledger.queries.job_list import Page, Wanted
from receiver.ledger.queries.jobs import Attempt
from receiver.ledger.rows import Asset, DeliveryEntry, Job
from receiver.model import FINAL_STATES, JobState, ref_time
from receiver.services import Services
from receiver.web.dashboard.base import (
    blueprint,
    is_fragment,
    page,
    validate_fields,
    with_query,
)
from receiver.web.state import services

# Jobs on a page.
JOBS = 50
# Bytes of a raw body, and characters of a request, that a page shows.
MAX_BODY_SHOWN, MAX_REQUEST_SHOWN = 64 * 1024, 4000
_BLOCK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One line of a job's timeline: a delivery, an event, or a failed attempt."""

    at: float
    delivery: DeliveryEntry | None = None
    event: dict[str, Any] | None = None
    attempt: Attempt | None = None


def read_jobs_query(values: Mapping[str, str]) -> tuple[JobsQuery, list[str]]:
    """Return the query as the API reads it, and its mistakes; a date alone means midnight UTC."""
    given = {
        name: value.strip()
        for name, value in values.items()
        if name in JobsQuery.model_fields and name != "limit"
    }
    for name in ("since", "until"):
        if len(given.get(name, "")) == len("2026-07-01"):
            given[name] += "T00:00:00Z"
    found, mistakes = validate_fields(JobsQuery, given)
    return found or JobsQuery(), mistakes


def job_filter(query: JobsQuery) -> Wanted:
    """Return the ledger's filter for a query."""
    return query.wanted()


def query_arguments(query: JobsQuery) -> dict[str, str]:
    """Return a query as URL arguments, without its position in the list."""
    days = {
        name: moment.strftime("%Y-%m-%d")
        for name in ("since", "until")
        if (moment := getattr(query, name))
    }
    return {"q": query.q, "state": query.state or "", "model": query.model, **days}


@blueprint.get("/jobs")
def jobs() -> Response:
    """List the matching jobs, newest first."""
    query, mistakes = read_jobs_query(request.args)
    found = (
        Page([], None)
        if mistakes
        else services().job_list.page(job_filter(query), query.after, JOBS)
    )
    full = len(found.jobs) == JOBS
    arguments = query_arguments(query)
    values = {
        "jobs": found.jobs,
        "assets": services().queries.assets([job.ref for job in found.jobs]),
        "given": {**arguments, **{name: request.args.get(name, "") for name in ("since", "until")}},
        "mistakes": mistakes,
        "next": with_query("/jobs", **arguments, after=found.next) if found.next else None,
        "searched_back_to": None if full or not found.next else ref_time(found.next).timestamp(),
        "retry_all": with_query("/retry-all", **arguments),
        "newest": with_query("/jobs", **arguments) if query.after else None,
    }
    if is_fragment() and request.headers.get("HX-Target") == "results":
        return page("_jobs.html", values)
    return page(
        "jobs.html", {**values, "models": services().job_list.models(), "states": list(JobState)}
    )


@blueprint.get("/jobs/<ref>")
def job(ref: str) -> Response:
    """Show one job; as a fragment respond 204 if it has not changed since ``seen``."""
    found = services().queries.job(ref)
    if found is None:
        raise NotFound
    values = _details(services(), found)
    if not is_fragment():
        return page("job.html", values)
    if request.args.get("seen") == values["seen"]:
        return Response(status=204)
    return page("_job.html", values)


def _details(services: Services, job: Job) -> dict[str, Any]:
    assets = services.queries.assets([job.ref])[job.ref]
    deliveries = services.queries.delivery_log(job.ref)
    events = services.events.of_job(job.ref)
    return {
        "job": job,
        "assets": assets,
        "timeline": _timeline(deliveries, events, services.queries.attempts(job.ref)),
        "params": _pretty_json(services.queries.params(job.ref)),
        "retryable": job.state in (JobState.FAILED, JobState.EXPIRED) or is_unexplained(job),
        "final": job.state in FINAL_STATES,
        "lifetime": services.timing.url_lifetime,
        "seen": _fingerprint(job, assets, deliveries, events),
    }


def _timeline(
    deliveries: list[DeliveryEntry], events: list[dict[str, Any]], attempts: list[Attempt]
) -> list[TimelineEntry]:
    entries = [
        *(TimelineEntry(row.received_at, delivery=row) for row in deliveries),
        *(TimelineEntry(attempt.at, attempt=attempt) for attempt in attempts),
        *(TimelineEntry(event["created_at"], event=event) for event in events),
    ]
    return sorted(entries, key=lambda entry: entry.at)


def _fingerprint(
    job: Job, assets: list[Asset], deliveries: list[DeliveryEntry], events: list[dict[str, Any]]
) -> str:
    """Return a hash of what the page shows; leases are not shown, so they do not count."""
    shown = (
        job.state,
        job.progress,
        job.provider_id,
        job.message,
        job.round,
        [(row.id, row.verdict) for row in deliveries],
        len(events),
    )
    pictures = [
        (asset.state, asset.url, asset.attempts, asset.error, asset.rejected) for asset in assets
    ]
    return hashlib.sha256(repr((shown, pictures)).encode()).hexdigest()[:16]


def _pretty_json(params: str) -> str:
    text = (
        json.dumps(json.loads(params), ensure_ascii=False, indent=1)
        if len(params) <= MAX_REQUEST_SHOWN
        else params
    )
    return text if len(text) <= MAX_REQUEST_SHOWN else f"{text[:MAX_REQUEST_SHOWN]} …"


# Raw bodies.


@blueprint.get("/jobs/<ref>/deliveries/<int:number>")
def delivery(ref: str, number: int) -> Response:
    """Show the raw body of a delivery as text."""
    entry = _delivery(ref, number)
    body = services().queries.body(number, 0, MAX_BODY_SHOWN).decode(errors="backslashreplace")
    values = {
        "ref": ref,
        "entry": entry,
        "body": body,
        "cut": MAX_BODY_SHOWN if entry.size > MAX_BODY_SHOWN else None,
    }
    return page("_delivery.html" if is_fragment() else "delivery.html", values)


@blueprint.get("/jobs/<ref>/deliveries/<int:number>/raw")
def raw_body(ref: str, number: int) -> Response:
    """Return a delivery's body as it was received, as a download."""
    entry, queries = _delivery(ref, number), services().queries

    def blocks() -> Iterator[bytes]:
        for start in range(0, entry.size, _BLOCK):
            yield queries.body(number, start, _BLOCK)

    response = Response(blocks(), content_type="application/octet-stream")
    response.headers["Content-Disposition"] = f'attachment; filename="{ref}-delivery-{number}.json"'
    response.headers["Content-Length"] = str(entry.size)
    return response


def _delivery(ref: str, number: int) -> DeliveryEntry:
    """Return a delivery of this job; raise NotFound if it has no such delivery."""
    found = next((row for row in services().queries.delivery_log(ref) if row.id == number), None)
    if found is None:
        raise NotFound
    return found
