"""Archive one asset: download it, inspect it, store it, and record the result in the ledger.

Nothing is retried here. After a failed attempt the asset's row gets a new due time or a final
state.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from os import stat_result
from pathlib import Path
from shutil import copyfileobj
from threading import Lock

import structlog

from receiver import failpoints
from receiver.archive.base64_images import decode_base64_image, find_picture
from receiver.archive.conclusion import Conclusion
from receiver.archive.inspect import Picture, inspect
from receiver.archive.job_limits import Count, JobLimits
from receiver.archive.manifest import asset_key, asset_prefix
from receiver.archive.quarantine import Quarantine, Rejection
from receiver.archive.stores import Store
from receiver.archive.unfinished import Unfinished
from receiver.clock import back_off, doubling
from receiver.errors import (
    ClaimLostError,
    FetchError,
    LedgerError,
    NotThePictureError,
    ObjectDiffersError,
    ReceiverError,
    SourceGoneError,
    StoreError,
)
from receiver.ledger.assets import Assets
from receiver.ledger.claims import MOST_CRASHES, Claimed, set_aside
from receiver.ledger.rows import Asset, End, Rejected, StoredAsset
from receiver.model import INLINE, AssetState, timestamp
from receiver.net.download import NO_HEADERS, BrokenOffError, Fetched, Fetcher
from receiver.net.progress import Progress
from receiver.telemetry import tracing
from receiver.telemetry.metrics import STEP_SECONDS

log = structlog.get_logger(__name__)

# Seconds after each failed attempt, with jitter.
BACK_OFF = doubling(1.0, 60.0)
# The asset fails after this many files that are not pictures: about 4 minutes of "not ready yet".
MAX_BAD_FILES = 10
# Seconds until the next attempt after the archive could not store an object.
STORE_RETRY_DELAY = 15.0
# From this attempt on a missing URL counts as dead, and the provider is asked for a fresh one.
ATTEMPTS_BEFORE_REFRESH = 3


class Archiver:
    """Archives claimed assets. ``scratch`` is the folder for temporary files.

    ``headers_for`` returns the headers that the download of an asset needs.
    """

    def __init__(
        self,
        assets: Assets,
        fetcher: Fetcher,
        store: Store,
        conclusion: Conclusion,
        quarantine: Quarantine,
        scratch: Path,
        *,
        limits: JobLimits,
        now: Callable[[], float],
        headers_for: Callable[[Asset], Mapping[str, str]] = lambda _asset: NO_HEADERS,
    ) -> None:
        self._assets = assets
        self._limits = limits
        self._now = now
        self._headers_for = headers_for
        self._fetcher = fetcher
        self._store = store
        self._scratch = scratch
        self._conclusion = conclusion
        self._quarantine = quarantine
        self._store_suspect = False
        self._unfinished = Unfinished(BACK_OFF[-1])
        # A response that contains pictures is large: only one is in memory at a time.
        self._decode_lock = Lock()
        # By ref and index. A restart begins from 0; in any case the URL's lifetime is the limit.
        self._bad_files: Counter[tuple[str, int]] = Counter()

    def archive(self, claimed: Claimed[Asset], progress: Progress | None = None) -> None:
        """Archive one asset, or record in the ledger when to try again.

        Its download keeps ``progress`` up to date, which may ask it to stop.
        """
        asset = claimed.row
        logger = log.bind(ref=asset.ref, index=asset.idx, attempt=asset.attempts)
        if asset.crashes >= MOST_CRASHES:
            self._set_aside(claimed)
            return
        try:
            with tracing.span("archive", asset.ref, index=asset.idx, attempt=asset.attempts):
                stored = self._archive(claimed, progress)
                if isinstance(stored, Rejection):
                    self._record_failure(claimed, stored.error, stored)
                    return
                failpoints.reached(failpoints.Point.STORED)
                ended = self._assets.finish(claimed, stored, self._prepare_end(claimed, stored))
            failpoints.reached(failpoints.Point.FINISHED)
            self._bad_files.pop((asset.ref, asset.idx), None)
            if asset.quarantined_at is not None:
                self._quarantine.remove_old(asset)
            elif asset.crashes:
                self._quarantine.remove_unrecorded(asset)
            logger.info(
                "asset archived",
                key=stored.key,
                size=stored.size,
                time_left=round(asset.expires_at - self._now(), 1),
                job_ended=ended,
            )
        except ClaimLostError as error:
            logger.warning("asset claim lost", error=str(error))
        except LedgerError:
            # The asset may be archived already. Its lease ends, and the next attempt finds it.
            raise
        except ReceiverError as error:
            self._record_failure(claimed, error)
        except Exception as error:
            # A bug of ours counts as a failed attempt, so that it cannot block the asset for ever.
            logger.exception("archiving attempt crashed")
            self._record_failure(
                claimed,
                ReceiverError(
                    f"unexpected error in the attempt ({type(error).__name__}); see the log"
                ),
            )

    def _prepare_end(self, claimed: Claimed[Asset], stored: StoredAsset) -> End | None:
        """Return the job's end if this is its last asset, so that both end in one transaction.

        After a crash, return None: if the manifest is what makes workers crash, the next attempt
        must finish the asset without it. If no manifest was created in its folder, the asset is
        settled here.
        """
        prepare = self._conclusion.prepare_with_last
        with tracing.step("conclude"), self._noting_store_errors():
            end = None if claimed.row.crashes else prepare(claimed, stored)
            if end is None:
                self._store.settle(stored.key)
            return end

    def _archive(
        self, claimed: Claimed[Asset], progress: Progress | None
    ) -> StoredAsset | Rejection:
        """Download, inspect and store the asset. Return what is in the archive now.

        A file that fails inspection goes to the quarantine.
        """
        asset = claimed.row
        self._require_store()
        name = f"{asset.ref}-{asset.idx}-{claimed.token}"
        with self._limits.archiving(asset) as count, self._scratch_file(name) as path:
            if earlier := self._adopt_earlier(asset, path):
                return earlier
            try:
                with STEP_SECONDS.labels("fetch").time(), tracing.step("fetch"):
                    fetched = self._fetch(asset, path, progress, count)
                    hashed = path.stat()
            except BrokenOffError as error:
                return self._quarantine.keep(asset, path, error.fetched, error)
            failpoints.reached(failpoints.Point.FETCHED)
            with STEP_SECONDS.labels("inspect").time(), tracing.step("inspect"):
                try:
                    picture = self._unfinished.inspect(asset, path, fetched, self._now())
                except (FetchError, NotThePictureError) as error:
                    return self._quarantine.keep(asset, path, fetched, error)
            stored = _stored(
                asset_key(asset.ref, asset.idx, picture.extension, asset.folder),
                fetched.sha256,
                fetched.size,
                picture,
                fetched.decoded,
            )
            with STEP_SECONDS.labels("put").time(), tracing.step("put"):
                try:
                    self._put(stored, path, hashed)
                except ObjectDiffersError as error:
                    return self._adopt_instead(asset, stored.key, path, fetched, error)
            return stored

    def _put(self, stored: StoredAsset, path: Path, hashed: stat_result) -> None:
        with self._noting_store_errors():
            self._store.put(
                stored.key,
                path,
                sha256=stored.sha256,
                content_type=stored.content_type,
                hashed=hashed,
                settled=False,
            )

    def _adopt_instead(
        self, asset: Asset, key: str, path: Path, fetched: Fetched, error: ObjectDiffersError
    ) -> StoredAsset | Rejection:
        """Return the object that has the key already.

        If that object is not a picture, the downloaded file goes to the quarantine and is not lost.
        """
        with self._scratch_file(f"{path.name}-stored") as copy, self._noting_store_errors():
            try:
                return self._adopt(key, copy)
            except NotThePictureError:
                return self._quarantine.keep(asset, path, fetched, NotThePictureError(str(error)))

    def _adopt_earlier(self, asset: Asset, path: Path) -> StoredAsset | None:
        """Return the object of an earlier attempt that was stored but not recorded, if any.

        Call this before a download, because the source may be gone by now or serve another file
        type.
        """
        if asset.attempts == 1 and not asset.error:
            return None
        try:
            prefix = asset_prefix(asset.ref, asset.idx, asset.folder)
            for key, _size in self._store.keys(prefix.rpartition("/")[0]):
                if key.startswith(prefix):
                    return self._adopt(key, path)
        except (StoreError, NotThePictureError) as error:
            # A damaged object is overwritten by the next put. If we may not list objects, the put
            # itself finds what is there.
            log.warning(
                "earlier object not usable", ref=asset.ref, index=asset.idx, error=str(error)
            )
            path.unlink(missing_ok=True)
        return None

    def _fetch(self, asset: Asset, path: Path, progress: Progress | None, count: Count) -> Fetched:
        if not asset.url.startswith(INLINE):
            headers = self._headers_for(asset)
            return self._fetcher.fetch(asset.url, path, progress, count, headers)
        with self._decode_lock:
            text = find_picture(self._assets.reports(asset.ref), asset.url)
            fetched = decode_base64_image(text, asset.url, path, self._fetcher.max_bytes)
        count(fetched.size)
        return fetched

    @contextmanager
    def _noting_store_errors(self) -> Iterator[None]:
        try:
            yield
        except ObjectDiffersError:
            raise
        except StoreError:
            self._store_suspect = True
            raise

    def _require_store(self) -> None:
        """Check the archive if its last use failed: a download would be useless without it."""
        if self._store_suspect:
            self._store.check()
            self._store_suspect = False

    def _adopt(self, key: str, path: Path) -> StoredAsset:
        """Return what is stored under this key already: the first bytes stored stay."""
        with self._store.open(key) as source, path.open("xb") as target:
            copyfileobj(source, target)
        picture = inspect(path)
        with path.open("rb") as file:
            digest = sha256()
            while block := file.read(1 << 18):
                digest.update(block)
        return _stored(key, digest.hexdigest(), path.stat().st_size, picture)

    @contextmanager
    def _scratch_file(self, name: str) -> Iterator[Path]:
        """Yield a path and remove its file afterwards. Raise StoreError if the local disk fails."""
        path = self._scratch / name
        try:
            yield path
        except OSError as error:
            raise StoreError(f"cannot use {path}: {error.strerror}") from error
        finally:
            # It may not exist, or the disk may be read-only. A starting worker empties the folder.
            with suppress(OSError):
                path.unlink()

    def _set_aside(self, claimed: Claimed[Asset]) -> None:
        """End an asset that makes workers crash, so that they can do the other work."""
        log.error(
            "asset set aside",
            ref=claimed.row.ref,
            index=claimed.row.idx,
            crashes=claimed.row.crashes,
        )
        with suppress(ClaimLostError):
            self._give_up(claimed, AssetState.FAILED, set_aside(claimed.row))

    def _record_failure(
        self, claimed: Claimed[Asset], error: ReceiverError, rejection: Rejection | None = None
    ) -> None:
        asset, file = claimed.row, rejection.file if rejection else None
        log.warning(
            "archiving attempt failed",
            ref=asset.ref,
            index=asset.idx,
            attempt=asset.attempts,
            error=str(error),
            permanent=error.permanent,
        )
        with suppress(ClaimLostError):
            is_last = rejection.final if rejection else error.permanent
            if not (rejection and rejection.is_wanted):
                is_last = self._is_bad_too_often(asset, error) or is_last
            self._decide(claimed, error, file, is_last=is_last)
            if file:
                self._quarantine.remove_old(asset, newer=file.sha256)

    def _decide(
        self,
        claimed: Claimed[Asset],
        error: ReceiverError,
        rejected: Rejected | None,
        *,
        is_last: bool,
    ) -> None:
        """Record a failed attempt: a final state, or another attempt while the URL lives."""
        asset, now, text = claimed.row, self._now(), str(error)
        gone = isinstance(error, SourceGoneError)
        suspicious = asset.attempts >= ATTEMPTS_BEFORE_REFRESH
        if is_last:
            self._give_up(claimed, AssetState.FAILED, text, rejected)
        elif isinstance(error, StoreError) and now < asset.expires_at + asset.lifetime:
            # The archive is at fault, not the asset. Its URL may be valid longer than promised.
            self._assets.retry(
                claimed,
                now + back_off(1, (STORE_RETRY_DELAY,)),
                text,
                counted=False,
            )
        elif now < asset.expires_at:
            due_at = min(now + back_off(asset.attempts, BACK_OFF), asset.expires_at)
            self._assets.retry(
                claimed, due_at, text, refresh_url=gone and suspicious, rejected=rejected
            )
        elif gone and not suspicious:
            # We are late, perhaps after an outage. The provider may have a fresh URL.
            self._assets.retry(
                claimed, now + back_off(asset.attempts, BACK_OFF), text, refresh_url=True
            )
        else:
            end = timestamp(asset.expires_at)
            self._give_up(
                claimed,
                AssetState.EXPIRED,
                f"not archived while its URL was valid (until {end}), "
                f"{asset.attempts} attempts: {text}",
                rejected,
            )

    def _is_bad_too_often(self, asset: Asset, error: ReceiverError) -> bool:
        """Return whether the source served too many files that are not pictures; count this one.

        Other faults do not count: they may last until the URL expires. A file that the archive
        could not store does not count either: it was paid for, and could not be accepted later.
        """
        if isinstance(error, NotThePictureError):
            if asset.url.startswith(INLINE):
                return True  # the bytes are in the ledger and cannot change
            self._bad_files[asset.ref, asset.idx] += 1
        return self._bad_files[asset.ref, asset.idx] >= MAX_BAD_FILES

    def _give_up(
        self,
        claimed: Claimed[Asset],
        state: AssetState,
        text: str,
        rejected: Rejected | None = None,
    ) -> None:
        if rejected is None and claimed.row.quarantined_at is None:
            rejected = self._quarantine.find_unrecorded(claimed.row, text)
        self._assets.give_up(claimed, state, text, rejected=rejected)
        self._bad_files.pop((claimed.row.ref, claimed.row.idx), None)


def _stored(key: str, sha256: str, size: int, picture: Picture, decoded: str = "") -> StoredAsset:
    return StoredAsset(
        key,
        sha256,
        size,
        picture.content_type,
        picture.width,
        picture.height,
        decoded,
        "; ".join(filter(None, [picture.defect, picture.unfinished])),
        picture.marks,
    )
