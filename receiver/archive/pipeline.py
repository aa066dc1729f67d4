"""The way of one asset from its URL into the archive: fetch, inspect, store, and the ledger told.

Nothing is retried here. Whatever goes wrong, the asset's row is told when to be due again, or that it is over.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from shutil import copyfileobj

import structlog

from receiver.archive.fetch import Fetcher
from receiver.archive.inspect import inspect
from receiver.archive.manifest import asset_key
from receiver.archive.stores import Store
from receiver.errors import ClaimLostError, NotThePictureError, ObjectDiffersError, ReceiverError, SourceGoneError, StoreError
from receiver.ledger.claims import Claimed
from receiver.ledger.ledger import Ledger
from receiver.ledger.rows import Asset, StoredAsset
from receiver.model import AssetState

log = structlog.get_logger(__name__)

# Seconds between attempts: 1, 2, 4 … up to this, each give or take a quarter.
LONGEST_BACK_OFF = 60.0
# How often a source may serve something that is no picture before the job fails: some four minutes of "not ready yet".
MOST_BAD_FILES = 8
# Seconds until the archive is tried again after it could not take an object.
ARCHIVE_PAUSE = 15.0
# From this attempt on, a URL that is not there is taken for dead, and the provider is asked for a fresh one.
SUSPICIOUS_ATTEMPTS = 3


class Archiver:
    """Brings claimed assets home; ``scratch`` is the folder for files on their way."""

    def __init__(self, ledger: Ledger, fetcher: Fetcher, store: Store, scratch: Path) -> None:
        self._ledger = ledger
        self._fetcher = fetcher
        self._store = store
        self._scratch = scratch
        self._store_in_doubt = False

    def archive(self, claimed: Claimed[Asset]) -> None:
        """Archive one asset, or say in the ledger when it is to be tried again."""
        asset = claimed.row
        logger = log.bind(ref=asset.ref, index=asset.idx, attempt=asset.attempts)
        try:
            stored = self._bring_home(claimed)
            self._ledger.finish_asset(claimed, stored)
            logger.info("asset archived", key=stored.key, size=stored.size, time_left=round(asset.expires_at - self._ledger.now(), 1))
        except ClaimLostError as error:
            logger.warning("asset left to another worker", error=str(error))
        except ReceiverError as error:
            logger.warning("asset not archived", error=str(error), permanent=error.permanent)
            with suppress(ClaimLostError):
                self._again_or_never(claimed, error)

    def _bring_home(self, claimed: Claimed[Asset]) -> StoredAsset:
        """Fetch, inspect, store; return what is in the archive now."""
        asset = claimed.row
        self._require_store()
        with self._scratch_file(f"{asset.ref}-{asset.idx}-{claimed.token}") as path:
            fetched = self._fetcher.fetch(asset.url, path)
            picture = inspect(path)
            key = asset_key(asset.ref, asset.idx, picture.extension)
            try:
                self._put(key, path, fetched.sha256, picture.content_type)
            except ObjectDiffersError:
                return self._adopt(key, path)
            return StoredAsset(key, fetched.sha256, fetched.size, picture.content_type, picture.width, picture.height)

    def _put(self, key: str, path: Path, digest: str, content_type: str) -> None:
        try:
            self._store.put(key, path, sha256=digest, content_type=content_type)
        except StoreError as error:
            self._store_in_doubt = not isinstance(error, ObjectDiffersError)
            raise

    def _require_store(self) -> None:
        """Spare the source's bandwidth while the archive is known to be away: ask the archive first."""
        if self._store_in_doubt:
            self._store.check()
            self._store_in_doubt = False

    def _adopt(self, key: str, path: Path) -> StoredAsset:
        """Take what an earlier attempt put under this key, whose finish was lost: the first bytes put stay."""
        path.unlink()
        with self._store.open(key) as source, path.open("xb") as target:
            copyfileobj(source, target)
        picture = inspect(path)
        with path.open("rb") as file:
            digest = sha256()
            while block := file.read(1 << 18):
                digest.update(block)
        return StoredAsset(key, digest.hexdigest(), path.stat().st_size, picture.content_type, picture.width, picture.height)

    @contextmanager
    def _scratch_file(self, name: str) -> Iterator[Path]:
        path = self._scratch / name
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _again_or_never(self, claimed: Claimed[Asset], error: ReceiverError) -> None:
        """Decide what a failed attempt means: over, or due again, never later than the URL lives."""
        asset, now, text = claimed.row, self._ledger.now(), str(error)
        if error.permanent or (isinstance(error, NotThePictureError) and asset.attempts >= MOST_BAD_FILES):
            self._ledger.give_up_asset(claimed, AssetState.FAILED, text)
        elif isinstance(error, StoreError) and now < asset.expires_at + self._ledger.timing.url_lifetime:
            # The archive is away, which says nothing about the asset. Its URL may well outlive its promise.
            self._ledger.retry_asset(claimed, now + ARCHIVE_PAUSE * random.uniform(0.75, 1.25), text, counted=False)  # noqa: S311 - jitter
        elif now >= asset.expires_at:
            self._ledger.give_up_asset(claimed, AssetState.EXPIRED, text)
        else:
            dead = isinstance(error, SourceGoneError) and asset.attempts >= SUSPICIOUS_ATTEMPTS
            self._ledger.retry_asset(claimed, min(now + back_off(asset.attempts), asset.expires_at), text, ask_again=dead)


def back_off(attempts: int) -> float:
    """Return the seconds to wait after the ``attempts``-th attempt (from 1), with jitter."""
    return float(min(2 ** min(attempts - 1, 10), LONGEST_BACK_OFF)) * random.uniform(0.75, 1.25)  # noqa: S311 - jitter
