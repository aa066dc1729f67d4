"""The list of jobs and its search, one job with its timeline, and a delivery's raw body."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flask import Response, request
from werkzeug.exceptions import NotFound

from receiver.jobs.job_object import webhook_shown
from receiver.ledger.claims import is_unexplained
from receiver.ledger.queries.job_list import Page
from receiver.ledger.queries.jobs import Attempt, ShownRequest
from receiver.ledger.rows import Asset, DeliveryEntry, Job
from receiver.model import FINAL_STATES, JobState, ref_time
from receiver.services import Services
from receiver.web.dashboard.base import blueprint, is_fragment, page
from receiver.web.dashboard.job_filter import read_job_filter
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


@blueprint.get("/jobs")
def jobs() -> Response:
    """List the matching jobs, newest first; as a fragment respond 204 if nothing has changed."""
    job_filter = read_job_filter(request.args)
    found = (
        Page([], None)
        if job_filter.mistakes
        else services().job_list.page(job_filter.wanted, job_filter.after, JOBS)
    )
    assets = services().queries.assets([job.ref for job in found.jobs])
    seen = _list_fingerprint(found.jobs, assets)
    if is_fragment() and request.args.get("seen") == seen:
        return Response(status=204)
    full = len(found.jobs) == JOBS
    values = {
        "job_filter": job_filter,
        "given": job_filter.given,
        "jobs": found.jobs,
        "assets": assets,
        "seen": seen,
        "next": job_filter.url("/jobs", after=found.next) if found.next else None,
        "searched_back_to": None if full or not found.next else ref_time(found.next).timestamp(),
    }
    if is_fragment() and request.headers.get("HX-Target") == "results":
        return page("_jobs.html", values)
    return page(
        "jobs.html", {**values, "models": services().job_list.models(), "states": list(JobState)}
    )


def _list_fingerprint(jobs: list[Job], assets: dict[str, list[Asset]]) -> str:
    """Return a hash of what the list shows."""
    shown = [
        (
            job.ref,
            job.state,
            job.progress,
            job.message,
            [(asset.idx, asset.state) for asset in assets[job.ref]],
        )
        for job in jobs
    ]
    return hashlib.sha256(repr(shown).encode()).hexdigest()[:16]


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
    shown = services.queries.requests([job.ref]).get(job.ref, ShownRequest({}, {}))
    return {
        "job": job,
        "job_webhook": webhook_shown(shown.webhook),
        "metadata": json.dumps(shown.metadata, ensure_ascii=False) if shown.metadata else "",
        "assets": assets,
        "timeline": _timeline(deliveries, events, services.queries.attempts(job.ref)),
        "params": _pretty_json(services.queries.params(job.ref)),
        "retryable": job.state in (JobState.FAILED, JobState.EXPIRED) or is_unexplained(job),
        "final": job.state in FINAL_STATES,
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
    formatted = _formatted(body)
    values = {
        "ref": ref,
        "entry": entry,
        "body": formatted or body,
        "is_formatted": formatted is not None and formatted != body,
        "cut": MAX_BODY_SHOWN if entry.size > MAX_BODY_SHOWN else None,
    }
    return page("_delivery.html" if is_fragment() else "delivery.html", values)


def _formatted(body: str) -> str | None:
    """Return a JSON text with indents; None if it is not JSON, for example because it was cut."""
    try:
        text = json.dumps(json.loads(body), ensure_ascii=False, indent=2)
    except (ValueError, RecursionError):
        return None
    return text.encode(errors="backslashreplace").decode()  # half of a surrogate pair


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
