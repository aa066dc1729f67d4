"""The gallery of archived pictures, and one of them in large."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import Response, request
from werkzeug.exceptions import NotFound

from receiver.archive.thumbnails import PREVIEW, THUMBNAIL, BusyError
from receiver.errors import StoreError
from receiver.ledger.queries.job_list import Page
from receiver.ledger.rows import Asset, Job
from receiver.model import AssetState, ref_time
from receiver.web.dashboard.base import blueprint, is_fragment, page
from receiver.web.dashboard.first_steps import first_steps
from receiver.web.dashboard.job_filter import JobFilter, read_job_filter
from receiver.web.state import services

# Jobs on a page; each shows its first picture, and how many more there are.
JOBS = 36
_DRAWINGS = Path(__file__).parent.parent / "static"


@dataclass(frozen=True, slots=True)
class Tile:
    """A job with its archived files."""

    job: Job
    assets: list[Asset]


@blueprint.get("/")
def gallery() -> Response:
    """Show the jobs with pictures, newest first.

    As a fragment, respond 204 if no picture was archived after the event ``seen``.
    """
    newest = services().pictures.newest()
    if is_fragment() and request.args.get("seen") == str(newest):
        return Response(status=204)
    job_filter = read_job_filter(request.args)
    values = {**_tiles(job_filter), "newest_event": newest}
    if is_fragment():
        return page("_gallery.html", values)
    return page("gallery.html", {**values, "models": services().job_list.models()})


def _tiles(job_filter: JobFilter) -> dict[str, Any]:
    found = (
        Page([], None)
        if job_filter.mistakes
        else services().job_list.page(job_filter.pictures(), job_filter.after, JOBS)
    )
    assets = services().queries.assets([job.ref for job in found.jobs])
    full = len(found.jobs) == JOBS
    return {
        "job_filter": job_filter,
        "tiles": [Tile(job, _archived(assets[job.ref])) for job in found.jobs],
        "next": job_filter.url("/", after=found.next) if found.next else None,
        "first_steps": None if found.jobs else first_steps(),
        "searched_back_to": None if full or not found.next else ref_time(found.next).timestamp(),
    }


def _archived(assets: list[Asset]) -> list[Asset]:
    return [asset for asset in assets if asset.state is AssetState.ARCHIVED]


@blueprint.get("/pictures/<ref>/<int:index>")
def picture(ref: str, index: int) -> Response:
    """Show a picture in large, with its neighbours in the gallery that the URL describes."""
    job = services().queries.job(ref)
    variants = _archived(services().queries.assets([ref])[ref])
    shown = next((asset for asset in variants if asset.idx == index), None)
    if job is None or shown is None:
        raise NotFound
    job_filter = read_job_filter(request.args)
    values = {
        "job": job,
        "asset": shown,
        "variants": variants,
        "job_filter": job_filter,
        "original": request.args.get("original") == "1",
        **_neighbours(job_filter, job, variants, variants.index(shown)),
    }
    return page("picture.html", values)


def _neighbours(
    job_filter: JobFilter, job: Job, variants: list[Asset], place: int
) -> dict[str, str | None]:
    """Return the URLs of the pictures before and after one: variants first, then other jobs."""
    before = after = None
    if place > 0:
        before = variants[place - 1]
    elif newer := services().job_list.newer(job_filter.pictures(), job.ref):
        before = _archived(services().queries.assets([newer.ref])[newer.ref])[-1]
    if place + 1 < len(variants):
        after = variants[place + 1]
    elif older := services().job_list.page(job_filter.pictures(), job.ref, 1).jobs:
        after = _archived(services().queries.assets([older[0].ref])[older[0].ref])[0]
    return {
        name: job_filter.url(f"/pictures/{asset.ref}/{asset.idx}") if asset else None
        for name, asset in (("before", before), ("after", after))
    }


# Thumbnails and previews.


@blueprint.get("/thumbnails/<ref>/<int:index>")
def thumbnail(ref: str, index: int) -> Response:
    """Return a picture's thumbnail, or a drawing if there is none or it is not ready."""
    return _small_picture(ref, index, THUMBNAIL)


@blueprint.get("/previews/<ref>/<int:index>")
def preview(ref: str, index: int) -> Response:
    """Return a picture in the size of a screen, or a drawing as for a thumbnail."""
    return _small_picture(ref, index, PREVIEW)


def _small_picture(ref: str, index: int, side: int) -> Response:
    found = next((row for row in services().queries.assets([ref])[ref] if row.idx == index), None)
    if found is None or found.state is not AssetState.ARCHIVED:
        return _drawing("no_picture.svg", 404)
    if found.content_type and found.content_type.startswith("video/"):
        return _drawing("video.svg", 200)
    try:
        data = services().thumbnails.get(found, side)
    except (BusyError, StoreError):
        return _drawing("not_ready.svg", 200)
    if data is None:
        return _drawing("no_picture.svg", 200)
    # The bytes of an archived file never change, and this browser was allowed to see them.
    return Response(
        data, content_type="image/webp", headers={"Cache-Control": "private, max-age=3600"}
    )


def _drawing(name: str, status: int) -> Response:
    return Response(
        (_DRAWINGS / name).read_bytes(), status=status, content_type="image/svg+xml; charset=utf-8"
    )
