"""The pictures of many jobs as one ZIP, written while it is sent: memory holds one block of it.

A ZIP occupies a thread of the server for as long as its reader needs, and callbacks need threads
too. So a process sends few at a time, and each ends after a while.
"""

import io
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from typing import Any, TypeAlias

from flask import Response, request

from receiver.archive.stores import Store
from receiver.errors import StoreError
from receiver.ledger.rows import Asset, Job
from receiver.model import AssetState
from receiver.services import Services
from receiver.telemetry.printable import printable
from receiver.web.dashboard.base import blueprint, error_page, localized
from receiver.web.dashboard.job_filter import JobFilter, read_job_filter
from receiver.web.state import services

# The file in a ZIP that says what the others are: a JSON object on each line.
_LIST = "pictures.jsonl"
# ZIPs of one process at a time, seconds that one may take, and jobs in one.
MAX_ZIPS, MAX_DURATION, MAX_JOBS = 2, 3600.0, 10_000
_BLOCK = 256 * 1024
_PORTION = 100  # jobs that are read from the ledger at once

_slots = threading.BoundedSemaphore(MAX_ZIPS)


@blueprint.get("/zip")
def zip_files() -> Response:
    """Send the pictures of the jobs named by ``ref``, or of all that the filter finds."""
    refs, job_filter = request.args.getlist("ref"), read_job_filter(request.args)
    if job_filter.mistakes:
        return error_page(400, "error_409", "; ".join(job_filter.mistakes))
    portions = _named(services(), refs) if refs else _matching(services(), job_filter)
    first = next((portion for portion in portions if portion), None)
    if first is None:
        return error_page(404, "zip_nothing", localized("zip_nothing_help"))
    if not _slots.acquire(blocking=False):
        response = error_page(503, "zip_busy", localized("zip_busy_help"))
        response.headers["Retry-After"] = "30"
        return response
    response = Response(
        _blocks(services().store, chain([first], portions)), content_type="application/zip"
    )
    response.call_on_close(_slots.release)
    name = f"pictures-{datetime.now(UTC):%Y%m%d-%H%M%S}.zip"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


# Some archived files, each with its job.
_Portion: TypeAlias = list[tuple[Job, Asset]]


def _named(services: Services, refs: list[str]) -> Iterator[_Portion]:
    yield _files(services, services.queries.jobs_named(refs[:_PORTION]))


def _matching(services: Services, job_filter: JobFilter) -> Iterator[_Portion]:
    """Yield the files of the wanted jobs, newest first, until there are too many."""
    after, left = job_filter.after, MAX_JOBS
    while left > 0:
        page = services.job_list.page(job_filter.pictures(), after, min(_PORTION, left))
        yield _files(services, page.jobs)
        if page.next is None:
            return
        after, left = page.next, left - len(page.jobs)


def _files(services: Services, jobs: list[Job]) -> _Portion:
    found = services.queries.assets([job.ref for job in jobs])
    return [
        (job, asset)
        for job in jobs
        for asset in found[job.ref]
        if asset.state is AssetState.ARCHIVED
    ]


class _Sink(io.RawIOBase):
    """The bytes that zipfile has written and the reader has not received yet."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """Return what was written since the last call."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


def _blocks(store: Store, portions: Iterator[_Portion]) -> Iterator[bytes]:
    """Yield the ZIP. Files are stored as they are: compression does not make pictures smaller.

    A file that cannot be opened is named in the list at the end. An error in the middle of one cuts
    the ZIP short, so that no reader takes it for complete.
    """
    sink, ends, listed = _Sink(), time.monotonic() + MAX_DURATION, []
    with zipfile.ZipFile(sink, "w") as target:
        for portion in portions:
            for job, asset in portion:
                line = _line(job, asset)
                try:
                    source = store.open(str(asset.key))
                except StoreError as error:
                    listed.append({**line, "error": str(error)})
                    continue
                listed.append(line)
                with source, target.open(_entry(line["file"], asset), "w") as entry:
                    while block := source.read(_BLOCK):
                        entry.write(block)
                        yield sink.take()
                        if time.monotonic() > ends:
                            raise TimeoutError(f"a ZIP took longer than {MAX_DURATION:.0f} s")
        lines = (printable(json.dumps(line, ensure_ascii=False), as_json=True) for line in listed)
        target.writestr(_LIST, "".join(f"{line}\n" for line in lines))
    yield sink.take()


def _line(job: Job, asset: Asset) -> dict[str, Any]:
    """Return what the list says about a file."""
    name = f"{asset.ref}-{str(asset.key).rpartition('/')[2]}"
    job_fields = {"model": job.model, "prompt": job.prompt, "key": job.key}
    return {
        "file": name,
        "ref": asset.ref,
        "index": asset.idx,
        **job_fields,
        "sha256": asset.sha256,
    }


def _entry(name: str, asset: Asset) -> zipfile.ZipInfo:
    moment = datetime.fromtimestamp(asset.finished_at or 0, UTC)
    # A ZIP knows no time before 1980.
    entry = zipfile.ZipInfo(name, max(moment.timetuple()[:6], (1980, 1, 1, 0, 0, 0)))
    entry.file_size = asset.size or 0  # so that a large file gets the fields of ZIP64
    return entry
