"""The deep audit: every archived picture is read and hashed, its manifest held against the ledger, and strangers in the archive named.

Two passes. The first walks the ledger, newest job first, and looks for what each row says is there; the second walks the archive and asks
the ledger for what lies there, or, where the ledger has forgotten a job (`receiver prune`), the job's manifest. So neither side has to fit
into memory, or be sorted as the other is.
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
    parse_key,
    read_manifest,
)
from receiver.archive.stores import Store, verify
from receiver.errors import MissingObjectError, UnreadableError
from receiver.ledger.queries.jobs import JobQueries
from receiver.ledger.rows import Asset, Job
from receiver.maintenance.checkpoint import Checkpoint, Step
from receiver.model import FINAL_STATES, AssetState

# Jobs, and names of objects, that are asked for at a time.
JOBS_AT_ONCE = 200
NAMES_AT_ONCE = 500
CHUNK = 256 * 1024  # bytes read at once


class Interrupted(Exception):  # noqa: N818 - it is no error: somebody asked for it
    """The audit was asked to stop; its place is kept."""


class DeepAudit:
    """Compares ledger and archive from its ``checkpoint`` on; ``show`` is called after each job and each page of names."""

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
        """Do what is left, noting in the place what differs. Raise StoreError if the archive is away, Interrupted if asked to stop."""
        with ThreadPoolExecutor(self._threads, "audit") as pool:
            if self.checkpoint.step is Step.PICTURES:
                self._walk_ledger(pool)
                self.checkpoint.begin(Step.NAMES)
            self._walk_archive(pool)

    # What the ledger says is there.

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
        """Say what is wrong with a job's objects, once the ledger has confirmed that it still says so: an operator may have retried it."""
        differences = self._job_problems(job, assets)
        if not differences:
            return []
        now, assets_now = self._queries.job(job.ref), self._queries.assets([job.ref])[job.ref]
        unchanged = now is not None and (now.state, assets_now) == (job.state, assets)
        return differences if now is None or unchanged else self._job_problems(now, assets_now)

    def _job_problems(self, job: Job, assets: list[Asset]) -> list[str]:
        archived = _archived(assets)
        found = [problem for asset in archived if (problem := self._asset_problem(job.ref, asset))]
        if (
            archived
            and job.state in FINAL_STATES
            and (problem := self._manifest_problem(job, archived))
        ):
            found.append(problem)
        return found

    def _asset_problem(self, ref: str, asset: Asset | ManifestAsset) -> str | None:
        """Read an archived asset's object; say what is wrong with it."""
        try:
            digest, size = verify(self._store, str(asset.key), self._digest)
        except MissingObjectError:
            return f"missing: {asset.key} (job {ref})"
        except UnreadableError as error:
            return f"unreadable: {asset.key} (job {ref}): {error}"
        if size != asset.size:
            return f"differs: {asset.key} (job {ref}): it has {size} bytes instead of {asset.size}"
        if digest != asset.sha256:
            return f"differs: {asset.key} (job {ref}): its SHA-256 is {digest} instead of {asset.sha256}"
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
        """Read a final job's manifest; say how it disagrees with the ledger about what is safe."""
        key = manifest_key(job.ref)
        if self._stopping.is_set():
            raise Interrupted
        try:
            manifest = self._manifest(job.ref)
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
            return f"manifest differs: {key} (job {job.ref}): it says something else of asset {', '.join(map(str, wrong))}"
        return None

    # What the archive has.

    def _walk_archive(self, pool: ThreadPoolExecutor) -> None:
        names = (name for name, _ in self._store.keys(after=self.checkpoint.after))
        while page := list(islice(names, NAMES_AT_ONCE)):
            if self._stopping.is_set():
                raise Interrupted
            differences, forgotten = self._audit_names(page, pool)
            self.checkpoint.record(page[-1], differences, names=len(page), forgotten=forgotten)
            self._show()

    def _audit_names(self, page: list[str], pool: ThreadPoolExecutor) -> tuple[list[str], int]:
        """Say what is wrong with some names, and how many of them the ledger has forgotten.

        The ledger is asked after the listing, so that what is new is in it.
        """
        refs = sorted({checkpoint[0] for name in page if (checkpoint := parse_key(name))})
        in_ledger, assets = self._queries.states(refs), self._queries.assets(refs)

        def decide(item: tuple[str, list[str]]) -> tuple[list[str], int]:
            ref, names = item
            if not ref:
                return [f"unknown object: {name}" for name in names], 0
            if ref not in in_ledger:
                return self._audit_forgotten(ref, names)
            strangers = (
                name
                for name in names
                if name != manifest_key(ref)
                and not any(_belongs_to(asset, name) for asset in assets[ref])
            )
            return [f"unknown object: {name} (job {ref} does not name it)" for name in strangers], 0

        found = list(
            pool.map(decide, [(ref, list(names)) for ref, names in groupby(page, key=_ref_of)])
        )
        return [line for lines, _ in found for line in lines], sum(
            forgotten for _, forgotten in found
        )

    def _audit_forgotten(self, ref: str, names: list[str]) -> tuple[list[str], int]:
        """Hold objects of a job that the ledger lacks against its manifest; return what is wrong, and how many are named there."""
        try:
            manifest = self._manifest(ref)
        except (MissingObjectError, UnreadableError):
            return [f"unknown object: {name} (there is no job {ref})" for name in names], 0
        in_manifest = {asset.key: asset for asset in manifest.archived}
        named = [name for name in names if name in in_manifest or name == manifest_key(ref)]
        strangers = [
            f"unknown object: {name} (there is no job {ref}, and its manifest does not name it)"
            for name in names
            if name not in named
        ]
        # With the manifest's own name, so that a picture that is gone is missed, and none is read twice.
        looked_at = manifest.archived if manifest_key(ref) in names else []
        damaged = [problem for asset in looked_at if (problem := self._asset_problem(ref, asset))]
        return strangers + damaged, len(named)

    def _manifest(self, ref: str) -> Manifest:
        return read_manifest(
            verify(self._store, manifest_key(ref), lambda file: file.read(MAX_MANIFEST_SIZE)), ref
        )


def _ref_of(name: str) -> str:
    """Return the ref of the job whose folder a name lies in, "" for a name we would not give."""
    checkpoint = parse_key(name)
    return checkpoint[0] if checkpoint else ""


def _archived(assets: list[Asset]) -> list[Asset]:
    return [asset for asset in assets if asset.state is AssetState.ARCHIVED]


def _belongs_to(asset: Asset, name: str) -> bool:
    """Say whether an object is this asset's: archived under that name, or just being archived."""
    on_its_way = asset.state is AssetState.PENDING and name.startswith(
        asset_prefix(asset.ref, asset.idx)
    )
    return on_its_way or (asset.state is AssetState.ARCHIVED and asset.key == name)
