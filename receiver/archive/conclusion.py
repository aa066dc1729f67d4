"""How a job with results ends: its final state, and the manifest that explains it.

The manifest is stored before the end, so that it exists when anyone sees the end. A worker that
lost its claim must not overwrite the manifest of its successor. So the worker of the last asset may
only create a manifest, which fails if there is one. Only the holder of the job's claim, while no
asset is pending, replaces one.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import structlog

from receiver import failpoints
from receiver.archive.manifest import manifest, manifest_key, read_manifest
from receiver.archive.stores import Store
from receiver.errors import ClaimLostError, MissingObjectError, StoreError, UnreadableError
from receiver.ledger.claims import Claimed
from receiver.ledger.queries.jobs import JobQueries, JobRecord
from receiver.ledger.rows import Asset, End, Job, StoredAsset
from receiver.model import AssetState, JobState, Reason
from receiver.providers.grsai.reports import MAX_RESULTS

log = structlog.get_logger(__name__)

_JSON = "application/json"


class Conclusion:
    """Prepares the end of jobs. ``now`` returns seconds since the epoch."""

    def __init__(self, queries: JobQueries, store: Store, now: Callable[[], float]) -> None:
        self._queries = queries
        self._store = store
        self._now = now

    def prepare(self, claimed: Claimed[Job]) -> End:
        """Return the end of a claimed job whose assets are all final, after storing its manifest.

        Raise ClaimLostError if the job is no longer ours, StoreError if the archive cannot store
        the manifest.
        """
        record = self._queries.record(claimed.row.ref)
        if record is None or record.job.claim != claimed.token:
            raise ClaimLostError("the lease ended and the work went to another worker")
        end = _decide(record, self._now())
        explained = any(_has_object(asset) for asset in record.assets)
        if explained and not self._has_better_manifest(record.job):
            key = manifest_key(record.job.ref, record.job.folder)
            self._store.replace(key, _manifest(record, end), content_type=_JSON)
            failpoints.reached(failpoints.Point.MANIFEST_STORED)
        return end

    def prepare_with_last(self, claimed: Claimed[Asset], stored: StoredAsset) -> End | None:
        """Return the end of a job whose last asset was just stored, after storing its manifest.

        Return None if the reconciler must end the job. That is so if other assets are pending, if
        the archive cannot store a manifest, or if there is one already: of an earlier round, or of
        a worker that lost its claim or crashed. The ledger decides again, in the transaction that
        ends both.
        """
        record = self._queries.record(claimed.row.ref)
        if record is None or not (found := _with_last(record, claimed, stored, self._now())):
            return None
        end = _decide(found, self._now())
        try:
            created = self._store.create(
                manifest_key(found.job.ref, found.job.folder),
                _manifest(found, end),
                content_type=_JSON,
            )
        except StoreError as error:
            log.warning("manifest not stored, the job ends later", error=str(error))
            return None
        failpoints.reached(failpoints.Point.MANIFEST_STORED)
        return end if created else None

    def _has_better_manifest(self, job: Job) -> bool:
        """Return whether an adopted job has a manifest from an earlier ledger.

        The earlier manifest contains the request, which we never saw.
        """
        if job.model:
            return False
        with (
            suppress(MissingObjectError, UnreadableError),
            self._store.open(manifest_key(job.ref, job.folder)) as file,
        ):
            return bool(read_manifest(file.read(), job.ref).request.model)
        return False


def _has_object(asset: Asset) -> bool:
    return asset.state is AssetState.ARCHIVED or asset.quarantined_at is not None


def _with_last(
    record: JobRecord, claimed: Claimed[Asset], stored: StoredAsset, now: float
) -> JobRecord | None:
    """Return the record as it will be when a claimed asset is archived.

    Return None if that is not the last asset, or is no longer ours.
    """
    (own,) = [asset for asset in record.assets if asset.idx == claimed.row.idx]
    others = [asset for asset in record.assets if asset is not own]
    if own.claim != claimed.token or any(asset.state is AssetState.PENDING for asset in others):
        return None
    archived = replace(
        own,
        state=AssetState.ARCHIVED,
        error="",
        finished_at=now,
        key=stored.key,
        sha256=stored.sha256,
        size=stored.size,
        content_type=stored.content_type,
        width=stored.width,
        height=stored.height,
        decoded=stored.decoded,
        defect=stored.defect,
        marks=stored.marks,
    )
    return replace(record, assets=sorted([*others, archived], key=lambda asset: asset.idx))


def _decide(record: JobRecord, now: float) -> End:
    state, reason, losses = decide_end(record.assets)
    message = "; ".join(filter(None, [losses, shortfall(record.job, len(record.assets))]))
    return End(state, reason, message, record.job.round, now)


def _manifest(record: JobRecord, end: End) -> bytes:
    ended = replace(
        record.job, state=end.state, reason=end.reason, message=end.message, finished_at=end.at
    )
    return manifest(ended, record.params, record.assets, record.deliveries, record.metadata)


def shortfall(job: Job, count: int) -> str:
    """Return which pictures are not among the ``count`` assets of a success; "" if none is missing.

    They may have been paid for, so the job names them although it is archived.
    """
    asked, left_out = job.requested or 0, job.left_out
    fewer = f"{asked} pictures were requested, the provider made {count}" if asked > count else ""
    more = f"{left_out} more results than the {MAX_RESULTS} that a job archives" if left_out else ""
    return "; ".join(filter(None, [fewer, more]))


def decide_end(assets: list[Asset]) -> tuple[JobState, Reason | None, str]:
    """Return state, reason and message of a job whose assets are final.

    It expired if one asset did, else it failed if one asset did, else it is archived.
    """
    losses = [
        f"asset {asset.idx}: {asset.error}"
        for asset in assets
        if asset.state is not AssetState.ARCHIVED
    ]
    states = {asset.state for asset in assets}
    if AssetState.EXPIRED in states:
        return JobState.EXPIRED, None, "; ".join(losses)
    if AssetState.FAILED in states:
        return JobState.FAILED, Reason.BAD_ASSET, "; ".join(losses)
    return JobState.ARCHIVED, None, ""
