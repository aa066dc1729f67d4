"""The list of jobs with its search, one job with all that happened to it, and a delivery's raw body."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Response, request
from werkzeug.exceptions import NotFound

from receiver.jobs.schemas import JobsQuery, seconds_of
from receiver.ledger.claims import is_unexplained
from receiver.ledger.queries.job_list import Page, Wanted
from receiver.ledger.queries.jobs import Attempt
from receiver.ledger.rows import Asset, DeliveryEntry, Job
from receiver.model import FINAL_STATES, JobState, ref_time
from receiver.services import Services
from receiver.web.dashboard.base import blueprint, is_fragment, mistakes_of, page, with_arguments
from receiver.web.state import services

# Jobs on a page.
JOBS = 50
# Bytes of a raw body, and characters of a request, that a page shows.
SHOWN_BODY, SHOWN_REQUEST = 64 * 1024, 4000
_BLOCK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Happening:
    """One line of a job's timeline: a delivery, an event, or an attempt that came to nothing."""

    at: float
    delivery: DeliveryEntry | None = None
    event: dict[str, Any] | None = None
    attempt: Attempt | None = None


def read_question(values: Mapping[str, str]) -> tuple[JobsQuery, list[str]]:
    """Read a question as the API does, and what is wrong with it; a day alone begins at its midnight, in UTC."""
    given = {
        name: value.strip()
        for name, value in values.items()
        if name in JobsQuery.model_fields and name != "limit"
    }
    for name in ("since", "until"):
        if len(given.get(name, "")) == len("2026-07-01"):
            given[name] += "T00:00:00Z"
    found, mistakes = mistakes_of(JobsQuery, given)
    return found or JobsQuery(), mistakes


def wanted_by(query: JobsQuery) -> Wanted:
    """Return what a question asks the ledger for."""
    return Wanted(
        query.state, query.model, query.q.strip(), seconds_of(query.since), seconds_of(query.until)
    )


def arguments_of(query: JobsQuery) -> dict[str, str]:
    """Return a question as the arguments of an address, without its place in the list."""
    days = {
        name: moment.strftime("%Y-%m-%d")
        for name in ("since", "until")
        if (moment := getattr(query, name))
    }
    return {"q": query.q, "state": query.state or "", "model": query.model, **days}


@blueprint.get("/jobs")
def jobs() -> Response:
    """List the jobs that are asked for, newest first."""
    query, mistakes = read_question(request.args)
    found = (
        Page([], None)
        if mistakes
        else services().job_list.page(wanted_by(query), query.after, JOBS)
    )
    full = len(found.jobs) == JOBS
    again = arguments_of(query)
    values = {
        "jobs": found.jobs,
        "assets": services().queries.assets([job.ref for job in found.jobs]),
        "query": query,
        "given": {**again, **{name: request.args.get(name, "") for name in ("since", "until")}},
        "mistakes": mistakes,
        "next": with_arguments("/jobs", **again, after=found.next) if found.next else None,
        "looked_back": None if full or not found.next else ref_time(found.next).timestamp(),
        "retry_all": with_arguments("/retry-all", **again),
        "newest": with_arguments("/jobs", **again) if query.after else None,
    }
    if is_fragment() and request.headers.get("HX-Target") == "results":
        return page("_jobs.html", values)
    return page(
        "jobs.html", {**values, "models": services().job_list.models(), "states": list(JobState)}
    )


@blueprint.get("/jobs/<ref>")
def job(ref: str) -> Response:
    """Show one job; as a part of a page only if it is no longer as it was ``seen``."""
    found = services().queries.job(ref)
    if found is None:
        raise NotFound
    values = _look(services(), found)
    if is_fragment():
        return (
            Response(status=204)
            if request.args.get("seen") == values["seen"]
            else page("_job.html", values)
        )
    return page("job.html", values)


def _look(services: Services, job: Job) -> dict[str, Any]:
    assets, deliveries = (
        services.queries.assets([job.ref])[job.ref],
        services.queries.delivery_log(job.ref),
    )
    events = services.events.of_job(job.ref)
    return {
        "job": job,
        "assets": assets,
        "timeline": _timeline(deliveries, events, services.queries.attempts(job.ref)),
        "params": _readable(services.queries.params(job.ref)),
        "retryable": job.state in (JobState.FAILED, JobState.EXPIRED) or is_unexplained(job),
        "final": job.state in FINAL_STATES,
        "locate": services.store.locate,
        "now": services.now(),
        "lifetime": services.timing.url_lifetime,
        "seen": _fingerprint(job, assets, deliveries, events),
    }


def _timeline(
    deliveries: list[DeliveryEntry], events: list[dict[str, Any]], attempts: list[Attempt]
) -> list[Happening]:
    told = [Happening(event["created_at"], event=event) for event in events]
    tried = [Happening(attempt.at, attempt=attempt) for attempt in attempts]
    return sorted(
        [*(Happening(row.received_at, row) for row in deliveries), *tried, *told],
        key=lambda happening: happening.at,
    )


def _fingerprint(
    job: Job, assets: list[Asset], deliveries: list[DeliveryEntry], events: list[dict[str, Any]]
) -> str:
    """Return what changes when there is something new to show; leases come and go unseen."""
    shown = (
        job.state,
        job.progress,
        job.provider_id,
        job.message,
        job.round,
        [(row.id, row.verdict) for row in deliveries],
        len(events),
    )
    pictures = [(asset.state, asset.url, asset.attempts, asset.error) for asset in assets]
    return hashlib.sha256(repr((shown, pictures)).encode()).hexdigest()[:16]


def _readable(params: str) -> str:
    text = (
        json.dumps(json.loads(params), ensure_ascii=False, indent=1)
        if len(params) <= SHOWN_REQUEST
        else params
    )
    return text if len(text) <= SHOWN_REQUEST else f"{text[:SHOWN_REQUEST]} …"


# Raw bodies.


@blueprint.get("/jobs/<ref>/deliveries/<int:number>")
def delivery(ref: str, number: int) -> Response:
    """Show the raw body of a delivery, as text."""
    entry = _entry(ref, number)
    body = services().queries.body(number, 0, SHOWN_BODY).decode(errors="backslashreplace")
    values = {
        "ref": ref,
        "entry": entry,
        "body": body,
        "cut": SHOWN_BODY if entry.size > SHOWN_BODY else None,
    }
    if is_fragment():
        return page("_delivery.html", values)
    return page("delivery.html", values)


@blueprint.get("/jobs/<ref>/deliveries/<int:number>/raw")
def raw_body(ref: str, number: int) -> Response:
    """Give a delivery's body as it came, to be saved."""
    entry, queries = _entry(ref, number), services().queries

    def parts() -> Iterator[bytes]:
        for start in range(0, entry.size, _BLOCK):
            yield queries.body(number, start, _BLOCK)

    response = Response(parts(), content_type="application/octet-stream")
    response.headers["Content-Disposition"] = f'attachment; filename="{ref}-delivery-{number}.json"'
    response.headers["Content-Length"] = str(entry.size)
    return response


def _entry(ref: str, number: int) -> DeliveryEntry:
    found = next((row for row in services().queries.delivery_log(ref) if row.id == number), None)
    if found is None:
        raise NotFound
    return found
