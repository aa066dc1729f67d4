"""An archived file's bytes: whole or a part of them, or a link to them; never as anything a browser would run."""

from collections.abc import Iterator
from typing import BinaryIO

from flask import Response, request
from werkzeug.datastructures import IfRange, Range
from werkzeug.http import parse_if_range_header, parse_range_header

from receiver.jobs.schemas import AssetQuery, LinkView
from receiver.ledger.rows import Asset
from receiver.model import AssetState, timestamp
from receiver.web.api.base import blueprint, json_of, read_query
from receiver.web.api.operations import Answer, described
from receiver.web.problems import problem
from receiver.web.state import services

BLOCK = 256 * 1024
# Seconds a link to the bytes lives: long enough for a large file on a slow line, short enough to be harmless in a log.
LINK_LIFETIME = 900
_MEDIA = "image/*"


@blueprint.get("/api/jobs/<ref>/assets/<int:index>")
@described(
    "Fetch an archived file, or a link to it",
    {
        200: Answer(
            "all of it; a LinkView where link=1", LinkView, headers=("ETag", "Accept-Ranges")
        ),
        206: Answer("the part that Range asked for", media=_MEDIA, headers=("Content-Range",)),
        304: Answer("If-None-Match has it already", media=""),
    },
    query=AssetQuery,
    problems={
        400: "a wrong question",
        404: "no such archived file",
        409: "this archive has no links",
        416: "it has no such part",
    },
)
def asset(ref: str, index: int) -> Response:
    """Return an archived file's bytes, or with ``link=1`` a link to them."""
    asked = read_query(AssetQuery)
    found = next((row for row in services().queries.assets([ref])[ref] if row.idx == index), None)
    if (
        found is None
        or found.state is not AssetState.ARCHIVED
        or found.key is None
        or found.size is None
    ):
        return problem(404, f"{ref} has no archived asset {index}")
    if asked.link == "1":
        return _link(found, found.key)
    if request.if_none_match.contains(found.sha256 or ""):
        return Response(status=304, headers=_harmless(found))
    return _bytes(found, found.key, found.size)


def _link(found: Asset, key: str) -> Response:
    url = services().store.link(key, LINK_LIFETIME, name=_name(found))
    if url is None:
        return problem(
            409, "this archive is a directory, which nobody can link to: fetch the bytes from here"
        )
    until = timestamp(services().ledger.now() + LINK_LIFETIME) or ""
    return json_of(LinkView(url=url, expires_at=until))


def _bytes(found: Asset, key: str, size: int) -> Response:
    asked = _wanted_part(found)
    part = (0, size) if asked is None else _place(asked, size)
    if part is None:
        response = problem(416, f"it has {size} bytes")
        response.headers["Content-Range"] = f"bytes */{size}"
        return response
    start, stop = part
    source = services().store.open(key, start) if start else services().store.open(key)
    response = Response(_blocks(source, stop - start), content_type=found.content_type)
    response.call_on_close(
        source.close
    )  # not left to the generator: one that never ran, as for a HEAD, closes nothing
    response.headers.update(_harmless(found))
    response.headers["Content-Length"] = str(stop - start)
    if asked is not None:
        response.status_code = 206
        response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return response


def _wanted_part(found: Asset) -> Range | None:
    """Return the part that is asked for; None for the whole, which is also what who asks for several parts at once gets."""
    given = request.headers.get("Range")
    asked = parse_range_header(given) if given and _still_the_same(found) else None
    return (
        asked if asked is not None and asked.units == "bytes" and len(asked.ranges) == 1 else None
    )


def _place(asked: Range, size: int) -> tuple[int, int] | None:
    """Return where a part begins and ends (that byte not included) in a file of so many bytes; None if it has none of it."""
    start, stop = asked.ranges[0]
    if start < 0:  # the last so many bytes, of which there may be fewer
        start = max(size + start, 0)
    stop = size if stop is None else min(stop, size)
    return (start, stop) if start < stop else None


def _still_the_same(found: Asset) -> bool:
    """Say whether If-Range, where there is one, names the bytes we have. They never change, but the caller may mean another file."""
    given: IfRange = parse_if_range_header(request.headers.get("If-Range"))
    return given.date is None and given.etag in (None, found.sha256)


def _blocks(source: BinaryIO, left: int) -> Iterator[bytes]:
    while left > 0 and (block := source.read(min(BLOCK, left))):
        left -= len(block)
        yield block


def _harmless(found: Asset) -> dict[str, str]:
    return {
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'attachment; filename="{_name(found)}"',
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "ETag": f'"{found.sha256}"',
        "Cache-Control": "private, no-cache",
    }


def _name(found: Asset) -> str:
    return f"{found.ref}-{(found.key or '').rpartition('/')[2]}"
