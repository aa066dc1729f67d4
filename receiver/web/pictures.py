"""Lasting links to archived pictures: signed, so that they need no token, for one picture each.

A link is valid until ADMIN_TOKEN is replaced.
"""

import hashlib

from flask import Blueprint, Response, request
from itsdangerous import Signer

from receiver.ledger.rows import Asset
from receiver.web.api import files
from receiver.web.problems import problem
from receiver.web.state import services

blueprint = Blueprint("pictures", __name__)


def picture_url(asset: Asset) -> str:
    """Return the lasting link to an archived picture: at PUBLIC_URL, else where we were called."""
    base = services().settings.public_url or request.host_url.rstrip("/")
    signature = _signer().get_signature(f"{asset.ref}/{asset.idx}").decode()
    extension = (asset.key or "").rpartition(".")[2]
    return f"{base}/pictures/{asset.ref}/{asset.idx}/{signature}.{extension}"


@blueprint.get("/pictures/<ref>/<int:index>/<name>")
def picture(ref: str, index: int, name: str) -> Response:
    """Return the bytes of a picture to who has its link."""
    if not _signer().verify_signature(f"{ref}/{index}", name.partition(".")[0]):
        return problem(404, "there is no such picture")
    return files.archived(ref, index) or problem(404, "there is no such picture")


def _signer() -> Signer:
    return Signer(
        services().admin_token, salt="picture", key_derivation="hmac", digest_method=hashlib.sha256
    )
