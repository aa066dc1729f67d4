"""The answer with pictures, as OpenAI sends it; base64 is written while a picture is read."""

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import BinaryIO

from flask import Response, request

from receiver.jobs.images_api import ImagesRequest
from receiver.ledger.rows import Asset, Job
from receiver.model import AssetState, JobState
from receiver.telemetry.printable import printable
from receiver.web.state import services

_BLOCK = 192 * 1024  # bytes read at a time


@dataclass(frozen=True, slots=True)
class _Picture:
    """An archived picture, opened; ``before`` and ``after`` are the JSON around its base64."""

    before: str
    source: BinaryIO | None
    size: int
    after: str

    def parts(self) -> Iterator[bytes]:
        """Yield the JSON of one picture."""
        yield self.before.encode()
        rest = b""
        while self.source and (block := self.source.read(_BLOCK)):
            block = rest + block  # a block may be short, and only the last piece may have padding
            whole = len(block) // 3 * 3
            yield base64.b64encode(block[:whole])
            rest = block[whole:]
        yield base64.b64encode(rest)
        yield self.after.encode()

    def length(self) -> int:
        """Return the bytes of the JSON."""
        encoded = (self.size + 2) // 3 * 4 if self.source else 0
        return len(self.before.encode()) + encoded + len(self.after.encode())


def answer(asked: ImagesRequest, jobs: Sequence[Job]) -> Response | None:
    """Return the pictures of jobs that have ended; None if there is none.

    Raise StoreError if one cannot be read now.
    """
    assets = services().queries.assets([job.ref for job in jobs])
    found = [
        asset for job in jobs for asset in assets[job.ref] if asset.state is AssetState.ARCHIVED
    ]
    if not found:
        return None
    shown = json.dumps(_head(asked, jobs, found[0]), ensure_ascii=False)
    head = printable(shown, as_json=True)[:-1] + ', "data": ['
    with ExitStack() as opened:
        pictures = [
            _opened(opened, asset, asked.response_format, "" if number == 0 else ", ")
            for number, asset in enumerate(found)
        ]
        response = Response(_body(head, pictures), content_type="application/json")
        length = len(head.encode()) + sum(one.length() for one in pictures) + len("]}")
        response.headers["Content-Length"] = str(length)
        response.call_on_close(opened.pop_all().close)
    return response


def _body(head: str, pictures: Sequence[_Picture]) -> Iterator[bytes]:
    yield head.encode()
    for picture in pictures:
        yield from picture.parts()
    yield b"]}"


def _head(asked: ImagesRequest, jobs: Sequence[Job], first: Asset) -> dict[str, object]:
    """Return all but the pictures; ``size`` and ``output_format`` are those that came."""
    without = [job for job in jobs if job.state is not JobState.ARCHIVED]
    head: dict[str, object] = {
        "created": int(max(job.finished_at or job.submitted_at for job in jobs)),
        "output_format": (first.content_type or "").rpartition("/")[2] or None,
        "size": f"{first.width}x{first.height}" if first.width and first.height else None,
        "quality": asked.quality,
        "jobs": [job.ref for job in jobs],
    }
    if without:
        reasons = [
            {"job": job.ref, "reason": job.reason or job.state, "message": job.message}
            for job in without
        ]
        head["failed"] = reasons
    return {name: value for name, value in head.items() if value is not None}


def _opened(opened: ExitStack, asset: Asset, wanted: str | None, comma: str) -> _Picture:
    shown = {} if wanted == "b64_json" else {"url": _link(asset)}
    before = comma + json.dumps(shown)[:-1]
    if wanted == "url":
        return _Picture(before, None, 0, "}")
    source = opened.enter_context(closing(services().store.open(asset.key or "")))
    name = ', "b64_json": "' if shown else '"b64_json": "'
    return _Picture(before + name, source, asset.size or 0, '"}')


def _link(asset: Asset) -> str:
    return services().links.endless(asset, services().settings.public_url or request.url_root)
