"""The bytes of an archived file, whole or in part, or a link to them; never as active content."""

from collections.abc import Iterator
from typing import BinaryIO

from flask import Response, request
from werkzeug.datastructures import IfRange, Range
from werkzeug.http import parse_if_range_header, parse_range_header

from receiver.jobs.schemas import AssetQuery, LinkView
from receiver.ledger.rows import Asset
from receiver.model import AssetState, timestamp
from receiver.web.api.base import blueprint, json_of, read_query
from receiver.web.api.operations import ResponseDoc, documented
from receiver.web.problems import problem
from receiver.web.state import services

BLOCK = 256 * 1024
# Seconds a link is valid: enough for a large file on a slow line, and short in case a log has it.
LINK_LIFETIME = 900
_MEDIA = "image/*"


@blueprint.get("/api/jobs/<ref>/assets/<int:index>")
@documented(
    "Get an archived file, or a link to it",
    {
        200: ResponseDoc(
            "the whole file; a LinkView with link=1", LinkView, headers=("ETag", "Accept-Ranges")
        ),
        206: ResponseDoc("the part that Range named", media=_MEDIA, headers=("Content-Range",)),
        304: ResponseDoc("the file that If-None-Match named", media=""),
    },
    query=AssetQuery,
    problems={
        400: "invalid query",
        404: "no such archived file",
        409: "this archive has no links",
        416: "the file does not have this part",
    },
)
def asset(ref: str, index: int) -> Response:
    """Return an archived file's bytes, or with ``link=1`` a link to them."""
    query = read_query(AssetQuery)
    found = next((row for row in services().queries.assets([ref])[ref] if row.idx == index), None)
    if (
        found is None
        or found.state is not AssetState.ARCHIVED
        or found.key is None
        or found.size is None
    ):
        return problem(404, f"{ref} has no archived asset {index}")
    if query.link == "1":
        return _link(found, found.key)
    if request.if_none_match.contains(found.sha256 or ""):
        return Response(status=304, headers=_file_headers(found))
    return _bytes(found, found.key, found.size)


def _link(found: Asset, key: str) -> Response:
    url = services().store.link(key, LINK_LIFETIME, name=_file_name(found))
    if url is None:
        return problem(
            409, "this archive is a directory, which has no links: fetch the bytes from here"
        )
    until = timestamp(services().now() + LINK_LIFETIME) or ""
    return json_of(LinkView(url=url, expires_at=until))


def _bytes(found: Asset, key: str, size: int) -> Response:
    asked = _requested_range(found)
    part = (0, size) if asked is None else _bounds(asked, size)
    if part is None:
        response = problem(416, f"the file has {size} bytes")
        response.headers["Content-Range"] = f"bytes */{size}"
        return response
    start, stop = part
    source = services().store.open(key, start) if start else services().store.open(key)
    response = Response(_blocks(source, stop - start), content_type=found.content_type)
    # Not left to the generator: one that never ran, as for a HEAD, closes nothing.
    response.call_on_close(source.close)
    response.headers.update(_file_headers(found))
    response.headers["Content-Length"] = str(stop - start)
    if asked is not None:
        response.status_code = 206
        response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return response


def _requested_range(found: Asset) -> Range | None:
    """Return the part asked for; None for the whole file, also if several parts are asked for."""
    given = request.headers.get("Range")
    asked = parse_range_header(given) if given and _if_range_matches(found) else None
    if asked is None or asked.units != "bytes" or len(asked.ranges) != 1:
        return None
    return asked


def _bounds(asked: Range, size: int) -> tuple[int, int] | None:
    """Return a part's first byte and the byte after its last; None if the file has none of it."""
    start, stop = asked.ranges[0]
    if start < 0:  # the last -start bytes; the file may be shorter
        start = max(size + start, 0)
    stop = size if stop is None else min(stop, size)
    return (start, stop) if start < stop else None


def _if_range_matches(found: Asset) -> bool:
    """Return whether If-Range, if given, names our bytes.

    They never change, but the caller may mean another file.
    """
    given: IfRange = parse_if_range_header(request.headers.get("If-Range"))
    return given.date is None and given.etag in (None, found.sha256)


def _blocks(source: BinaryIO, left: int) -> Iterator[bytes]:
    while left > 0 and (block := source.read(min(BLOCK, left))):
        left -= len(block)
        yield block


def _file_headers(found: Asset) -> dict[str, str]:
    """Return headers with which a browser saves the file and never runs it."""
    return {
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'attachment; filename="{_file_name(found)}"',
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "ETag": f'"{found.sha256}"',
        "Cache-Control": "private, no-cache",
    }


def _file_name(found: Asset) -> str:
    return f"{found.ref}-{(found.key or '').rpartition('/')[2]}"
