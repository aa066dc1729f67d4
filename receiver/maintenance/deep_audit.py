"""The deep audit: hash every archived file, check the manifests, and find unknown objects.

The first pass walks the ledger, newest job first, and reads the objects of each job. The second
pass walks the archive and looks up each object in the ledger; if the ledger no longer has the job
(`receiver prune`), its manifest is read. So neither side has to fit into memory, or be sorted like
the other one.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import groupby, islice
from threading import Event
from typing import BinaryIO

from receiver.archive.manifest import (
    MAX_MANIFEST_SIZE,
    Manifest,
    ManifestAsset,
    asset_prefix,
    manifest_key,
    parse_job_key,
    parse_quarantine_key,
    quarantine_key,
    read_manifest,
)
from receiver.archive.stores import Store, verify
from receiver.errors import MissingObjectError, UnreadableError
from receiver.ledger.queries.jobs import JobQueries
from receiver.ledger.rows import Asset, Job
from receiver.maintenance.checkpoint import Checkpoint, Pass
from receiver.model import FINAL_STATES, AssetState

# How many jobs, or names of objects, are read at once.
JOBS_AT_ONCE = 200
NAMES_AT_ONCE = 500
CHUNK = 256 * 1024  # bytes read at once


class Interrupted(Exception):  # noqa: N818 - not an error
    """The audit was asked to stop; its checkpoint is up to date."""


class DeepAudit:
    """Compares ledger and archive, starting at ``checkpoint``.

    ``show`` is called after each job and each page of names.
    """

    def __init__(
        self,
        store: Store,
        queries: JobQueries,
        checkpoint: Checkpoint,
        *,
        threads: int,
        stopping: Event,
        show: Callable[[], object],
    ) -> None:
        self._store = store
        self._queries = queries
        self.checkpoint = checkpoint
        self._threads = threads
        self._stopping = stopping
        self._show = show

    def run(self) -> None:
        """Do the rest of the audit and record the differences in the checkpoint.

        Raise StoreError if the archive is unavailable, Interrupted if ``stopping`` is set.
        """
        with ThreadPoolExecutor(self._threads, "audit") as pool:
            if self.checkpoint.step is Pass.PICTURES:
                self._walk_ledger(pool)
                self.checkpoint.begin(Pass.NAMES)
            self._walk_archive(pool)

    # First pass: the ledger.

    def _walk_ledger(self, pool: ThreadPoolExecutor) -> None:
        while page := self._queries.jobs(after=self.checkpoint.after, limit=JOBS_AT_ONCE):
            found = self._queries.assets([job.ref for job in page])
            assets = [found[job.ref] for job in page]
            for job, own, differences in zip(
                page, assets, pool.map(self._audit_job, page, assets), strict=True
            ):
                self.checkpoint.record(job.ref, differences, jobs=1, pictures=len(_archived(own)))
                self._show()

    def _audit_job(self, job: Job, assets: list[Asset]) -> list[str]:
        """Return what is wrong with a job's objects.

        After a difference the job is read again: an operator may have retried it meanwhile.
        """
        differences = self._job_problems(job, assets)
        if not differences:
            return []
        now, assets_now = self._queries.job(job.ref), self._queries.assets([job.ref])[job.ref]
        unchanged = now is not None and (now.state, assets_now) == (job.state, assets)
        return differences if now is None or unchanged else self._job_problems(now, assets_now)

    def _job_problems(self, job: Job, assets: list[Asset]) -> list[str]:
        archived = _archived(assets)
        found = [problem for asset in archived if (problem := self._asset_problem(job.ref, asset))]
        found += [problem for asset in assets if (problem := self._rejected_problem(asset))]
        if (
            archived
            and job.state in FINAL_STATES
            and (problem := self._manifest_problem(job, archived))
        ):
            found.append(problem)
        return found

    def _asset_problem(self, ref: str, asset: Asset | ManifestAsset) -> str | None:
        """Read the object of an archived asset; return what is wrong with it, if anything."""
        return self._object_problem(ref, str(asset.key), asset.sha256, asset.size)

    def _rejected_problem(self, asset: Asset) -> str | None:
        """Read the object of a rejected file that is kept; return what is wrong with it."""
        if asset.quarantined_at is None or asset.rejected_sha256 is None:
            return None
        key = quarantine_key(asset.ref, asset.idx, asset.rejected_sha256)
        return self._object_problem(asset.ref, key, asset.rejected_sha256, asset.rejected_size)

    def _object_problem(
        self, ref: str, key: str, expected: str | None, expected_size: int | None
    ) -> str | None:
        try:
            digest, size = verify(self._store, key, self._digest)
        except MissingObjectError:
            return f"missing: {key} (job {ref})"
        except UnreadableError as error:
            return f"unreadable: {key} (job {ref}): {error}"
        if size != expected_size:
            return f"differs: {key} (job {ref}): it has {size} bytes instead of {expected_size}"
        if digest != expected:
            return f"differs: {key} (job {ref}): its SHA-256 is {digest} instead of {expected}"
        return None

    def _digest(self, file: BinaryIO) -> tuple[str, int]:
        digest, size = sha256(), 0
        while chunk := file.read(CHUNK):
            if self._stopping.is_set():
                raise Interrupted
            digest.update(chunk)
            size += len(chunk)
        return digest.hexdigest(), size

    def _manifest_problem(self, job: Job, archived: list[Asset]) -> str | None:
        """Read a finished job's manifest; return how it differs from the ledger, if it does."""
        key = manifest_key(job.ref, job.folder)
        if self._stopping.is_set():
            raise Interrupted
        try:
            manifest = self._manifest(job.ref, job.folder)
        except MissingObjectError:
            return f"manifest missing: {key} (job {job.ref})"
        except UnreadableError as error:
            return f"manifest unreadable: {key} (job {job.ref}): {error}"
        in_manifest = {
            asset.index: (asset.key, asset.sha256, asset.size) for asset in manifest.archived
        }
        in_ledger = {asset.idx: (asset.key, asset.sha256, asset.size) for asset in archived}
        if wrong := sorted(
            idx
            for idx in in_manifest.keys() | in_ledger.keys()
            if in_manifest.get(idx) != in_ledger.get(idx)
        ):
            numbers = ", ".join(map(str, wrong))
            return (
                f"manifest differs: {key} (job {job.ref}): "
                f"it says something else of asset {numbers}"
            )
        return None

    # Second pass: the archive.

    def _walk_archive(self, pool: ThreadPoolExecutor) -> None:
        names = (name for name, _ in self._store.keys(after=self.checkpoint.after))
        while page := list(islice(names, NAMES_AT_ONCE)):
            if self._stopping.is_set():
                raise Interrupted
            differences, forgotten = self._audit_names(page, pool)
            self.checkpoint.record(page[-1], differences, names=len(page), forgotten=forgotten)
            self._show()

    def _audit_names(self, page: list[str], pool: ThreadPoolExecutor) -> tuple[list[str], int]:
        """Return what is wrong with a page of names, and how many the ledger no longer has.

        The ledger is queried after the listing, so that it has all jobs of the listing.
        """
        refs = sorted({ref for name in page if (ref := _place_of(name)[0])})
        in_ledger, assets = self._queries.states(refs), self._queries.assets(refs)

        def decide(item: tuple[tuple[str, str], list[str]]) -> tuple[list[str], int]:
            (ref, folder), names = item
            if not ref:
                return [f"unknown object: {name}" for name in names], 0
            if ref not in in_ledger:
                return self._audit_forgotten(ref, folder, names)
            own = next((manifest_key(ref, asset.folder) for asset in assets[ref]), "")
            unknown = (
                name
                for name in names
                if name != (own or manifest_key(ref))
                and not any(_belongs_to(asset, name) for asset in assets[ref])
            )
            return [f"unknown object: {name} (job {ref} does not name it)" for name in unknown], 0

        found = list(
            pool.map(decide, [(ref, list(names)) for ref, names in groupby(page, key=_place_of)])
        )
        return [line for lines, _ in found for line in lines], sum(
            forgotten for _, forgotten in found
        )

    def _audit_forgotten(self, ref: str, folder: str, names: list[str]) -> tuple[list[str], int]:
        """Compare objects of a job that the ledger no longer has with the job's manifest.

        Return what is wrong, and how many of the objects the manifest explains.
        """
        try:
            manifest = self._manifest(ref, folder)
        except (MissingObjectError, UnreadableError):
            return [f"unknown object: {name} (there is no job {ref})" for name in names], 0
        own = manifest_key(ref, folder)
        in_manifest = {asset.key: asset for asset in manifest.archived}
        named = [name for name in names if name in in_manifest or name == own]
        unknown = [
            f"unknown object: {name} (there is no job {ref}, and its manifest does not name it)"
            for name in names
            if name not in named
        ]
        # Read the objects together with the manifest's own name, so that a missing object is
        # noticed and no object is read twice.
        to_read = manifest.archived if own in names else []
        damaged = [problem for asset in to_read if (problem := self._asset_problem(ref, asset))]
        return unknown + damaged, len(named)

    def _manifest(self, ref: str, folder: str) -> Manifest:
        key = manifest_key(ref, folder)
        return read_manifest(
            verify(self._store, key, lambda file: file.read(MAX_MANIFEST_SIZE)), ref
        )


def _place_of(name: str) -> tuple[str, str]:
    """Return the ref of the job to which a name belongs, and the folder that the job named.

    Both are "" if it is not a key of the service.
    """
    found = parse_job_key(name)
    return (found.ref, found.folder) if found else (parse_quarantine_key(name) or "", "")


def _archived(assets: list[Asset]) -> list[Asset]:
    return [asset for asset in assets if asset.state is AssetState.ARCHIVED]


def _belongs_to(asset: Asset, name: str) -> bool:
    """Return whether an object belongs to this asset, which may be being archived right now."""
    prefix = asset_prefix(asset.ref, asset.idx, asset.folder)
    rejected = quarantine_key(asset.ref, asset.idx, "")
    being_stored = asset.state is AssetState.PENDING and name.startswith((prefix, rejected))
    kept = asset.quarantined_at is not None and name == f"{rejected}{asset.rejected_sha256}"
    return being_stored or kept or (asset.state is AssetState.ARCHIVED and asset.key == name)
