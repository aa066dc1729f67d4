"""Archived files by a signed link, without a token; see ``receiver.archive.links``."""

from flask import Blueprint, Response

from receiver.errors import StoreError
from receiver.model import AssetState
from receiver.web.api.files import find_asset, serve
from receiver.web.problems import RETRY_AFTER, problem
from receiver.web.state import services

blueprint = Blueprint("links", __name__)


@blueprint.get("/files/<signed>/<name>")
def file(signed: str, name: str) -> Response:  # noqa: ARG001 - only for those who save the file
    """Return the bytes that a link of ours names; its name is not read."""
    found = services().links.read(signed)
    asset = find_asset(*found) if found else None
    if asset is None or asset.state is not AssetState.ARCHIVED:
        return problem(404, "this link is not ours, or it has ended: ask for a new one")
    try:
        return serve(asset)
    except StoreError as error:
        return problem(503, str(error), retry_after=RETRY_AFTER)
