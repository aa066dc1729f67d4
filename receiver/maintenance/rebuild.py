"""Rebuild a lost ledger from the manifests in the archive.

A job is restored if its manifest is valid and every result file that it names is there with the
right size. Everything else is reported; nothing is guessed. A rejected file counts as kept if it is
in the quarantine; it may have been removed since the manifest was written.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from threading import Event

from receiver.archive.manifest import (
    MAX_MANIFEST_SIZE,
    Manifest,
    ManifestAsset,
    ManifestDelivery,
    manifest_key,
    parse_job_key,
    parse_quarantine_key,
    quarantine_key,
    read_manifest,
)
from receiver.archive.stores import Store, require_key, verify
from receiver.errors import MissingObjectError, UnreadableError
from receiver.ledger.caller_fields import shown_params
from receiver.ledger.database import Database
from receiver.ledger.events import ABOUT_THE_JOB
from receiver.ledger.queries.jobs import JobQueries
from receiver.ledger.restore import Past, Restored, Row, restore
from receiver.ledger.rows import marks_text
from receiver.model import QUARANTINE, AssetState, EventType, JobState, Mark, Outcome, Reason

MANIFEST = "job.json"
# Folders, and bytes of their manifests, that are read in parallel and written in one transaction.
FOLDERS_AT_ONCE = 100
BYTES_AT_ONCE = 32 * 1024 * 1024
# Names in the quarantine that are looked up at once.
NAMES_AT_ONCE = 500
# How many names of what was not restored are stored; the others are only counted.
MAX_LISTED = 10_000


@dataclass(frozen=True, slots=True)
class JobFolder:
    """The objects in one job's folder: size in bytes by name.

    If ``ref`` is empty, it is one object that is not in a job's folder.
    """

    ref: str
    objects: dict[str, int]

    @property
    def manifest(self) -> str | None:
        """The key of the job's manifest, or None if it has none."""
        return next(
            (key for key in self.objects if self.ref and key.endswith(f"/{MANIFEST}")), None
        )


class CappedList:
    """Lines of text: all are counted, the first ``MAX_LISTED`` are kept."""

    def __init__(self) -> None:
        self.count = 0
        self.lines: list[str] = []

    def extend(self, lines: Iterable[str]) -> None:
        """Add these lines."""
        for line in lines:
            self.count += 1
            if len(self.lines) < MAX_LISTED:
                self.lines.append(line)


@dataclass(slots=True)
class Rebuilt:
    """What a rebuild has found and done so far."""

    restored: int = 0
    pictures: int = 0
    known: int = 0
    # Manifests whose job was not or not completely restored, and why.
    problems: CappedList = field(default_factory=CappedList)
    # Objects that no manifest names; their jobs were not finished when the ledger was lost.
    unknown: CappedList = field(default_factory=CappedList)


class Rebuilder:
    """Reads manifests with ``threads`` threads and writes their jobs into the ledger.

    ``show`` is called with the progress after each transaction.
    """

    def __init__(
        self,
        store: Store,
        database: Database,
        queries: JobQueries,
        *,
        job_timeout: float,
        threads: int,
        stopping: Event,
        show: Callable[[Rebuilt], object],
    ) -> None:
        self._store = store
        self._database = database
        self._job_timeout = job_timeout
        self._queries = queries
        self._threads = threads
        self._stopping = stopping
        self._show = show
        self.so_far = Rebuilt()
        self._quarantine: dict[str, int] = {}  # size in bytes by key

    def run(self, below: str = "") -> Rebuilt:
        """Restore the jobs below a folder of the archive, until done or ``stopping`` is set.

        Raise ValueError if the archive cannot have such a folder, StoreError or LedgerError.
        """
        if below:
            require_key(below)
        # Rejected files are by date only, also those of jobs that named a folder.
        is_dated = not below or below[0].isdigit()
        folder = f"{QUARANTINE}/{below}" if below and is_dated else QUARANTINE
        self._quarantine = dict(self._store.keys(folder))
        results = (item for item in self._store.keys(below) if not _is_in_quarantine(item[0]))
        with ThreadPoolExecutor(self._threads, "rebuild") as pool:
            for batch in batches(group_by_job(results)):
                if self._stopping.is_set():
                    return self.so_far
                self._restore(batch, pool)
                self._show(self.so_far)
        if is_dated:
            self.so_far.unknown.extend(self._unknown_rejected())
        return self.so_far

    def _unknown_rejected(self) -> Iterator[str]:
        """Yield the files in the quarantine that no asset of the ledger names."""
        keys = sorted(self._quarantine)
        for start in range(0, len(keys), NAMES_AT_ONCE):
            page = keys[start : start + NAMES_AT_ONCE]
            refs = sorted({ref for key in page if (ref := parse_quarantine_key(key))})
            known = {
                quarantine_key(ref, asset.idx, asset.rejected_sha256)
                for ref, found in self._queries.assets(refs).items()
                for asset in found
                if asset.quarantined_at is not None and asset.rejected_sha256 is not None
            }
            yield from (key for key in page if key not in known)

    def _restore(self, batch: list[JobFolder], pool: ThreadPoolExecutor) -> None:
        known = self._queries.states([folder.ref for folder in batch if folder.ref])
        self.so_far.known += sum(1 for folder in batch if folder.ref in known and folder.manifest)
        new = [folder for folder in batch if folder.ref not in known]
        found = list(pool.map(self._inspect, new))
        for inspection in found:
            self.so_far.unknown.extend(inspection.unknown)
            self.so_far.problems.extend(inspection.problems)
        self._write(
            [self._rows(inspection.manifest) for inspection in found if inspection.manifest]
        )

    def _inspect(self, folder: JobFolder) -> "_Inspection":
        """Read the manifest of a folder and compare it with the objects there."""
        key = folder.manifest
        if key is None:
            return _Inspection(unknown=sorted(folder.objects))
        if self._stopping.is_set():
            return _Inspection()
        try:
            manifest = self._read(key, folder)
        except (UnreadableError, MissingObjectError) as error:
            return _Inspection(problems=[f"{key}: {error}"])
        if lost := [
            problem for asset in manifest.archived if (problem := _asset_problem(asset, folder))
        ]:
            return _Inspection(problems=[f"{key}: {'; '.join(lost)}"])
        return _Inspection(
            manifest,
            sorted(folder.objects.keys() - {key} - {asset.key for asset in manifest.archived}),
        )

    def _read(self, key: str, folder: JobFolder) -> Manifest:
        if folder.objects[key] > MAX_MANIFEST_SIZE:
            raise UnreadableError(f"{folder.objects[key]} bytes are not a manifest")
        found = read_manifest(
            verify(self._store, key, lambda file: file.read(MAX_MANIFEST_SIZE)), folder.ref
        )
        if (own := manifest_key(found.ref, found.folder)) != key:
            raise UnreadableError(f"folder: its own place is {own}")
        return found

    def _write(self, pasts: list[Past]) -> None:
        done: Restored = self._database.write(partial(restore, pasts=pasts))
        self.so_far.restored += len(done.new)
        self.so_far.known += len(pasts) - len(done.new)
        self.so_far.pictures += sum(
            1
            for job_rows in done.new
            for asset in job_rows.assets
            if asset["state"] == AssetState.ARCHIVED
        )
        self.so_far.problems.extend(
            f"{ref} is restored without {lost}" for ref, lost in done.without.items()
        )

    def _rows(self, manifest: Manifest) -> Past:
        past = rows_of(manifest, self._job_timeout)
        for row in past.assets:
            if row["quarantined_at"] is not None:
                key = quarantine_key(row["ref"], row["idx"], row["rejected_sha256"])
                if self._quarantine.get(key) != row["rejected_size"]:
                    row["quarantined_at"] = None
        return past


@dataclass(frozen=True, slots=True)
class _Inspection:
    """The content of one folder: a manifest to restore, unknown objects, and what is wrong."""

    manifest: Manifest | None = None
    unknown: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def group_by_job(listing: Iterable[tuple[str, int]]) -> Iterator[JobFolder]:
    """Group a sorted listing by job. Objects that are in no job's folder come one by one."""
    for place, group in groupby(listing, key=lambda found: _place_of(found[0])):
        if place:
            yield JobFolder(place[0], dict(group))
        else:
            yield from (JobFolder("", {key: size}) for key, size in group)


def _place_of(key: str) -> tuple[str, str] | None:
    """Return ref and folder of the job that has a key; None if no job has it."""
    found = parse_job_key(key)
    return (found.ref, found.folder) if found else None


def batches(found: Iterable[JobFolder]) -> Iterator[list[JobFolder]]:
    """Yield lists of folders that fit into memory and into one transaction."""
    batch: list[JobFolder] = []
    weight = 0
    for folder in found:
        size = folder.objects[folder.manifest] if folder.manifest else 0
        if batch and (len(batch) >= FOLDERS_AT_ONCE or weight + size > BYTES_AT_ONCE):
            yield batch
            batch, weight = [], 0
        batch.append(folder)
        weight += size
    if batch:
        yield batch


def _is_in_quarantine(key: str) -> bool:
    return key.startswith(f"{QUARANTINE}/")


def _asset_problem(asset: ManifestAsset, folder: JobFolder) -> str | None:
    """Return what is wrong with the object of an archived asset, if anything."""
    size = folder.objects.get(asset.key or "")
    if size is None:
        return f"its object {asset.key} is missing"
    if size != asset.size:
        return f"its object {asset.key} has {size} bytes instead of {asset.size}"
    return None


# A manifest's job as rows of the ledger.


def rows_of(manifest: Manifest, job_timeout: float) -> Past:
    """Return the rows of the manifest's job, and its events."""
    job = _job(manifest, job_timeout)
    assets = [_asset(manifest, asset) for asset in manifest.assets]
    archived = [_archived_event(asset) for asset in assets if asset["state"] == AssetState.ARCHIVED]
    events = [_event(manifest, **event) for event in [*archived, _final_event(job)]]
    return Past(
        job, assets, [_delivery(manifest.ref, delivery) for delivery in manifest.deliveries], events
    )


def _job(manifest: Manifest, job_timeout: float) -> Row:
    """Return the row of the job.

    A job with assets once succeeded. What manifests of the first release left out follows from its
    assets.
    """
    names = (
        "ref",
        "provider",
        "base_url",
        "provider_id",
        "api",
        "mode",
        "key",
        "batch",
        "folder",
        "state",
        "submitted_at",
        "answered_at",
        "ended_at",
        "round",
        "requested",
        "left_out",
    )
    failed = manifest.state is JobState.FAILED
    losses = "; ".join(
        f"asset {asset.index}: {asset.error}"
        for asset in manifest.assets
        if asset.state is not AssetState.ARCHIVED
    )
    return {
        **{name: getattr(manifest, name) for name in names},
        "model": manifest.request.model,
        "prompt": manifest.request.prompt,
        "params": json.dumps(manifest.request.params, ensure_ascii=False),
        "shown": shown_params(manifest.request.params),
        "metadata": json.dumps(manifest.metadata, ensure_ascii=False),
        "outcome": Outcome.SUCCEEDED,
        "reason": manifest.reason or (Reason.BAD_ASSET if failed else None),
        "message": manifest.message or losses,
        "progress": 100,
        "deadline_at": manifest.submitted_at + job_timeout,
        "finished_at": manifest.finished_at or max(asset.finished_at for asset in manifest.assets),
    }


def _asset(manifest: Manifest, asset: ManifestAsset) -> Row:
    values = asset.model_dump(exclude={"index", "source_url", "rejected", "marks"})
    rejected = asset.rejected
    is_archived = asset.state is AssetState.ARCHIVED
    values |= {
        "marks": marks_text([Mark(mark.kind, mark.name, mark.size) for mark in asset.marks]),
        "doubt": None if is_archived else "",  # manifests have none: it is tried again
        "rejected_sha256": rejected.sha256 if rejected else None,
        "rejected_size": rejected.size if rejected else None,
        "rejected_type": rejected.content_type if rejected else None,
        "rejected_reason": rejected.reason if rejected else None,
        "quarantined_at": rejected.quarantined_at if rejected else None,
    }
    if not is_archived:
        values["key"] = None  # only archived assets have a key, and keys are unique
    place = {"ref": manifest.ref, "folder": manifest.folder, "idx": asset.index}
    return {**place, "url": asset.source_url, **values}


def _delivery(ref: str, delivery: ManifestDelivery) -> Row:
    """Return the row of a delivery. Its body is lost; only the digest is known."""
    return {
        "ref": ref,
        "body": b"",
        "source": delivery.source,
        "verdict": delivery.verdict,
        "received_at": delivery.received_at,
        "digest": delivery.sha256,
        "repaired": delivery.repaired,
        "proof": delivery.proof,
    }


def _event(manifest: Manifest, payload: Row, **values: object) -> Row:
    """Return the row of an event. Its payload has the same fields as in ``ledger.events``."""
    text = json.dumps(
        {**payload, "job_key": manifest.key}, ensure_ascii=False, separators=(",", ":")
    )
    return {"ref": manifest.ref, "round": manifest.round, "payload": text, **values}


def _archived_event(asset: Row) -> Row:
    names = ("key", "sha256", "size", "content_type", "width", "height")
    payload = {"ref": asset["ref"], "index": asset["idx"], **{name: asset[name] for name in names}}
    if asset["accepted_at"] is not None:
        payload["accepted"] = True
    return {
        "type": EventType.ASSET_ARCHIVED,
        "idx": asset["idx"],
        "created_at": asset["finished_at"],
        "payload": payload,
    }


def _final_event(job: Row) -> Row:
    payload = {
        name: job[name]
        for name in ("ref", "state", "provider", "provider_id", "model", "reason", "message")
    }
    return {
        "type": EventType(f"job.{job['state']}"),
        "idx": ABOUT_THE_JOB,
        "created_at": job["finished_at"],
        "payload": payload,
    }
