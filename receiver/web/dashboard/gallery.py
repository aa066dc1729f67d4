"""The gallery of archived pictures, and their thumbnails."""

from pathlib import Path

from flask import Response, request

from receiver.archive.thumbnails import BusyError
from receiver.errors import StoreError
from receiver.ledger.rows import Asset
from receiver.model import AssetState
from receiver.web.dashboard.base import blueprint, is_fragment, page
from receiver.web.state import services

# Pictures on a page.
PICTURES = 36
_DRAWINGS = Path(__file__).parent.parent / "static"


@blueprint.get("/")
def gallery() -> Response:
    """Show the pictures archived last.

    As a fragment, respond 204 if there is no newer picture than the event ``seen``.
    """
    given = request.args.get("before", "")
    before = int(given) if given.isascii() and given.isdigit() and len(given) <= 18 else None  # noqa: PLR2004 - digits of the largest event number
    found = services().pictures.arrivals(before, PICTURES + 1)
    values = {
        "arrivals": found[:PICTURES],
        "before": before,
        "older": found[PICTURES - 1].event if len(found) > PICTURES else None,
    }
    if not is_fragment():
        return page("gallery.html", values)
    newest = found[0].event if found else 0
    if request.args.get("seen") == str(newest):
        return Response(status=204)
    return page("_gallery.html", values)


@blueprint.get("/thumbnails/<ref>/<int:index>")
def thumbnail(ref: str, index: int) -> Response:
    """Return a picture's thumbnail, or a drawing if there is none or it is not ready."""
    found = next((row for row in services().queries.assets([ref])[ref] if row.idx == index), None)
    if found is None or found.state is not AssetState.ARCHIVED:
        return _drawing("no_picture.svg", 404)
    if found.content_type and found.content_type.startswith("video/"):
        return _drawing("video.svg", 200)
    try:
        return _thumbnail(found)
    except (BusyError, StoreError):
        return _drawing("not_ready.svg", 200)


def _thumbnail(found: Asset) -> Response:
    data = services().thumbnails.get(found)
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
