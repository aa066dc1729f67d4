"""The pictures as they arrive, the strip that says how all jobs stand, and the thumbnails."""

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
    """Show the pictures that came home last; as a part of a page only if there is one newer than what was ``seen``."""
    given = request.args.get("before", "")
    before = int(given) if given.isascii() and given.isdigit() and len(given) <= 18 else None  # noqa: PLR2004 - what a ledger can number
    found = services().pictures.arrivals(before, PICTURES + 1)
    values = {
        "arrivals": found[:PICTURES],
        "before": before,
        "older": found[PICTURES - 1].event if len(found) > PICTURES else None,
    }
    if is_fragment():
        newest = found[0].event if found else 0
        return (
            Response(status=204)
            if request.args.get("seen") == str(newest)
            else page("_gallery.html", values)
        )
    return page("gallery.html", values)


@blueprint.get("/strip")
def strip() -> Response:
    """Show how all jobs stand."""
    return page("_strip.html", {"checked": True})


@blueprint.get("/law")
def law() -> Response:
    """Show what the last audit said."""
    return page("law.html")


@blueprint.get("/thumbnails/<ref>/<int:index>")
def thumbnail(ref: str, index: int) -> Response:
    """Return a picture's thumbnail, or a drawing in its place: of nothing to see, or of a moment's patience (which is not kept)."""
    found = next((row for row in services().queries.assets([ref])[ref] if row.idx == index), None)
    if found is None or found.state is not AssetState.ARCHIVED:
        return _drawing("none.svg", 404)
    if found.content_type and found.content_type.startswith("video/"):
        return _drawing("video.svg", 200)
    try:
        return _thumbnail(found)
    except (BusyError, StoreError):
        return _drawing("later.svg", 200)


def _thumbnail(found: Asset) -> Response:
    data = services().thumbnails.get(found)
    if data is None:
        return _drawing("none.svg", 200)
    # Bytes under a key never change, and this browser's owner has seen them.
    return Response(
        data, content_type="image/webp", headers={"Cache-Control": "private, max-age=3600"}
    )


def _drawing(name: str, status: int) -> Response:
    return Response(
        (_DRAWINGS / name).read_bytes(), status=status, content_type="image/svg+xml; charset=utf-8"
    )
