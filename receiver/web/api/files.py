"""The bytes of an archived or a rejected file, whole or in part; never as active content."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from flask import Response, request
from werkzeug.datastructures import IfRange, Range
from werkzeug.http import parse_if_range_header, parse_range_header

from receiver.archive.manifest import quarantine_key
from receiver.archive.quarantine import extension_of
from receiver.archive.saving import file_name
from receiver.errors import MissingObjectError
from receiver.jobs.schemas import AssetQuery, LinkView
from receiver.ledger.rows import Asset
from receiver.model import AssetState, timestamp
from receiver.web.api.base import blueprint, json_of, read_query
from receiver.web.api.operations import ResponseDoc, documented
from receiver.web.problems import problem
from receiver.web.state import services

BLOCK = 256 * 1024
_MEDIA = "image/*"
_OCTETS = "application/octet-stream"


@blueprint.get("/api/jobs/<ref>/assets/<int:index>")
@documented(
    "Get an archived file",
    {
        200: ResponseDoc("the whole file", media=_MEDIA, headers=("ETag", "Accept-Ranges")),
        206: ResponseDoc("the part that Range named", media=_MEDIA, headers=("Content-Range",)),
        304: ResponseDoc("the file that If-None-Match named", media=""),
    },
    problems={404: "no such archived file", 416: "the file does not have this part"},
)
def asset(ref: str, index: int) -> Response:
    """Return an archived file's bytes.

    With ``link=1`` return a link instead, for clients of the first release. Other clients use the
    operation ``link``.
    """
    query = read_query(AssetQuery)
    found = find_asset(ref, index)
    if found is None or found.state is not AssetState.ARCHIVED or not found.key:
        return problem(404, f"{ref} has no archived asset {index}")
    if query.link == "1" and services().settings.archive_url.startswith("file://"):
        return problem(
            409, "this archive is a directory, which has no links: fetch the bytes from here"
        )
    return _link(found) if query.link == "1" else serve(found)


@blueprint.get("/api/jobs/<ref>/assets/<int:index>/link")
@documented(
    "Get a link to an archived file that needs no token",
    {200: ResponseDoc("the link", LinkView)},
    problems={404: "no such archived file"},
)
def link(ref: str, index: int) -> Response:
    """Return a link to an archived file: lasting with ARCHIVE_PUBLIC_URL, else for 15 minutes."""
    found = find_asset(ref, index)
    if found is None or found.state is not AssetState.ARCHIVED:
        return problem(404, f"{ref} has no archived asset {index}")
    return _link(found)


def serve(found: Asset) -> Response:
    """Return the bytes of an archived asset."""
    key, media_type = found.key or "", found.content_type or _OCTETS
    name = file_name(found.ref, key)
    return _answer(_File(key, found.size or 0, found.sha256 or "", media_type, name))


@blueprint.get("/api/jobs/<ref>/assets/<int:index>/rejected")
@documented(
    "Get the rejected file of an asset",
    {
        200: ResponseDoc("the whole file", media=_OCTETS, headers=("ETag", "Accept-Ranges")),
        206: ResponseDoc("the part that Range named", media=_OCTETS, headers=("Content-Range",)),
        304: ResponseDoc("the file that If-None-Match named", media=""),
    },
    problems={404: "no rejected file is kept", 416: "the file does not have this part"},
)
def rejected(ref: str, index: int) -> Response:
    """Return the bytes of a file that failed inspection, always as a download of unknown type."""
    found = find_asset(ref, index)
    if found is None or not found.is_acceptable or found.rejected is None:
        return problem(404, f"no rejected file of asset {index} of {ref} is kept")
    kept = found.rejected
    name = f"{ref}-{index}-rejected.{extension_of(kept.content_type)}"
    key = quarantine_key(ref, index, kept.sha256)
    try:
        return _answer(_File(key, kept.size, kept.sha256, _OCTETS, name))
    except MissingObjectError:
        return problem(404, f"the rejected file of asset {index} of {ref} is gone from the archive")


@dataclass(frozen=True, slots=True)
class _File:
    """A file in the archive, and how it is served; ``size`` in bytes."""

    key: str
    size: int
    sha256: str
    media_type: str
    name: str


def find_asset(ref: str, index: int) -> Asset | None:
    """Return an asset of a job; None if there is none."""
    return next((row for row in services().queries.assets([ref])[ref] if row.idx == index), None)


def _link(found: Asset) -> Response:
    base = services().settings.public_url or request.url_root
    made = services().links.link(found, base)
    return json_of(LinkView(url=made.url, expires_at=timestamp(made.expires_at)))


def _answer(file: _File) -> Response:
    if request.if_none_match.contains(file.sha256):
        return Response(status=304, headers=_file_headers(file))
    asked = _requested_range(file)
    part = (0, file.size) if asked is None else _bounds(asked, file.size)
    if part is None:
        response = problem(416, f"the file has {file.size} bytes")
        response.headers["Content-Range"] = f"bytes */{file.size}"
        return response
    start, stop = part
    source = services().store.open(file.key, start) if start else services().store.open(file.key)
    response = Response(_blocks(source, stop - start), content_type=file.media_type)
    # Closed here and not by the generator: after a HEAD the generator never runs.
    response.call_on_close(source.close)
    response.headers.update(_file_headers(file))
    response.headers["Content-Length"] = str(stop - start)
    if asked is not None:
        response.status_code = 206
        response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
    return response


def _requested_range(file: _File) -> Range | None:
    """Return the requested part; None for the whole file, also if several parts are requested."""
    given = request.headers.get("Range")
    asked = parse_range_header(given) if given and _if_range_matches(file) else None
    if asked is None or asked.units != "bytes" or len(asked.ranges) != 1:
        return None
    return asked


def _bounds(asked: Range, size: int) -> tuple[int, int] | None:
    """Return a part's first byte and the byte after its last; None if it is not in the file."""
    start, stop = asked.ranges[0]
    if start < 0:  # the last -start bytes; the file may be shorter
        start = max(size + start, 0)
    stop = size if stop is None else min(stop, size)
    return (start, stop) if start < stop else None


def _if_range_matches(file: _File) -> bool:
    """Return whether If-Range, if given, names our bytes.

    Our bytes never change, but the caller may mean another file.
    """
    given: IfRange = parse_if_range_header(request.headers.get("If-Range"))
    return given.date is None and given.etag in (None, file.sha256)


def _blocks(source: BinaryIO, left: int) -> Iterator[bytes]:
    while left > 0 and (block := source.read(min(BLOCK, left))):
        left -= len(block)
        yield block


def _file_headers(file: _File) -> dict[str, str]:
    """Return headers with which a browser saves the file and never runs it."""
    return {
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'attachment; filename="{file.name}"',
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "ETag": f'"{file.sha256}"',
        "Cache-Control": "private, no-cache",
    }
