"""The way of one asset from its URL into the archive: fetch, inspect, store, and the ledger told.

Nothing is retried here. Whatever goes wrong, the asset's row is told when to be due again, or that it is over.
"""

from binascii import Error, a2b_base64
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from shutil import copyfileobj
from threading import Lock

import structlog

from receiver import failpoints
from receiver.archive.inspect import inspect
from receiver.archive.manifest import asset_key, asset_prefix
from receiver.archive.stores import Store
from receiver.clock import back_off, doubling
from receiver.errors import (
    ClaimLostError,
    LedgerError,
    NotThePictureError,
    ObjectDiffersError,
    ReceiverError,
    SourceGoneError,
    StoreError,
)
from receiver.ledger.assets import Assets
from receiver.ledger.claims import MOST_CRASHES, Claimed, set_aside
from receiver.ledger.rows import Asset, StoredAsset
from receiver.model import INLINE, AssetState, timestamp
from receiver.net.download import Fetched, Fetcher
from receiver.providers.openai.protocol import read_picture
from receiver.telemetry import tracing
from receiver.telemetry.metrics import STEP_SECONDS

log = structlog.get_logger(__name__)

# Seconds after each failed attempt, with jitter.
BACK_OFF = doubling(1.0, 60.0)
# How often a source may serve something that is no picture before the job fails: some four minutes of "not ready yet".
MAX_BAD_FILES = 10
# Seconds until the archive is tried again after it could not take an object.
STORE_RETRY_DELAY = 15.0
# From this attempt on, a URL that is not there is taken for dead, and the provider is asked for a fresh one.
ATTEMPTS_BEFORE_REFRESH = 3
# Characters decoded at a time: whole groups of four.
BASE64_CHUNK = 4 * 64 * 1024


class Archiver:
    """Brings claimed assets home; ``scratch`` is the folder for files on their way."""

    def __init__(
        self,
        assets: Assets,
        fetcher: Fetcher,
        store: Store,
        scratch: Path,
        *,
        url_lifetime: float,
        now: Callable[[], float],
    ) -> None:
        self._assets = assets
        self._url_lifetime = url_lifetime
        self._now = now
        self._fetcher = fetcher
        self._store = store
        self._scratch = scratch
        self._store_suspect = False
        # An answer with pictures in it is large: one in memory at a time.
        self._decode_lock = Lock()
        # By ref and index. A restart counts anew, which costs minutes; the URL's end bounds them all.
        self._bad_files: Counter[tuple[str, int]] = Counter()

    def archive(self, claimed: Claimed[Asset]) -> None:
        """Archive one asset, or say in the ledger when it is to be tried again."""
        asset = claimed.row
        logger = log.bind(ref=asset.ref, index=asset.idx, attempt=asset.attempts)
        if asset.crashes >= MOST_CRASHES:
            self._set_aside(claimed)
            return
        try:
            with tracing.span("archive", asset.ref, index=asset.idx, attempt=asset.attempts):
                stored = self._archive(claimed)
                failpoints.reached(failpoints.Point.STORED)
                self._assets.finish(claimed, stored)
            failpoints.reached(failpoints.Point.FINISHED)
            self._bad_files.pop((asset.ref, asset.idx), None)
            logger.info(
                "asset archived",
                key=stored.key,
                size=stored.size,
                time_left=round(asset.expires_at - self._now(), 1),
            )
        except ClaimLostError as error:
            logger.warning("asset left to another worker", error=str(error))
        except LedgerError:
            # That says nothing about the asset, which may be in the archive by now: the lease ends, and the next attempt finds it there.
            raise
        except ReceiverError as error:
            logger.warning("asset not archived", error=str(error), permanent=error.permanent)
            self._record_failure(claimed, error)
        except Exception as error:
            # A mistake of ours must not keep an asset for ever: it is an attempt that failed, and the URL's end bounds those.
            logger.exception("attempt broke off")
            self._record_failure(
                claimed,
                ReceiverError(
                    f"the attempt broke off ({type(error).__name__}); the log says where"
                ),
            )

    def _archive(self, claimed: Claimed[Asset]) -> StoredAsset:
        """Fetch, inspect, store; return what is in the archive now."""
        asset = claimed.row
        self._require_store()
        with self._scratch_file(f"{asset.ref}-{asset.idx}-{claimed.token}") as path:
            if earlier := self._adopt_earlier(asset, path):
                return earlier
            with STEP_SECONDS.labels("fetch").time(), tracing.step("fetch"):
                fetched = self._fetch(asset, path)
            failpoints.reached(failpoints.Point.FETCHED)
            with STEP_SECONDS.labels("inspect").time(), tracing.step("inspect"):
                picture = inspect(path)
            key = asset_key(asset.ref, asset.idx, picture.extension)
            with (
                self._noting_store_errors(),
                STEP_SECONDS.labels("put").time(),
                tracing.step("put"),
            ):
                try:
                    self._store.put(
                        key, path, sha256=fetched.sha256, content_type=picture.content_type
                    )
                except ObjectDiffersError:
                    path.unlink()
                    return self._adopt(key, path)
            return StoredAsset(
                key,
                fetched.sha256,
                fetched.size,
                picture.content_type,
                picture.width,
                picture.height,
            )

    def _adopt_earlier(self, asset: Asset, path: Path) -> StoredAsset | None:
        """Take what an earlier attempt put, if its finish was lost: the source may be gone by now, or serve another type."""
        if asset.attempts == 1 and not asset.error:
            return None
        try:
            prefix = asset_prefix(asset.ref, asset.idx)
            for key, _size in self._store.keys(prefix.rpartition("/")[0]):
                if key.startswith(prefix):
                    return self._adopt(key, path)
        except (StoreError, NotThePictureError) as error:
            # It was spoilt on its way there, and the next put mends it; or we may not list, and the put itself finds what is there.
            log.warning(
                "earlier object not taken", ref=asset.ref, index=asset.idx, error=str(error)
            )
            path.unlink(missing_ok=True)
        return None

    def _fetch(self, asset: Asset, path: Path) -> Fetched:
        if not asset.url.startswith(INLINE):
            return self._fetcher.fetch(asset.url, path)
        with self._decode_lock:
            return decode_base64_image(self._assets.answer(asset.ref), asset.url, path)

    @contextmanager
    def _noting_store_errors(self) -> Iterator[None]:
        try:
            yield
        except StoreError:
            self._store_suspect = True
            raise

    def _require_store(self) -> None:
        """Spare the source's bandwidth while the archive is known to be away: ask the archive first."""
        if self._store_suspect:
            self._store.check()
            self._store_suspect = False

    def _adopt(self, key: str, path: Path) -> StoredAsset:
        """Take what an earlier attempt put under this key, whose finish was lost: the first bytes put stay."""
        with self._store.open(key) as source, path.open("xb") as target:
            copyfileobj(source, target)
        picture = inspect(path)
        with path.open("rb") as file:
            digest = sha256()
            while block := file.read(1 << 18):
                digest.update(block)
        return StoredAsset(
            key,
            digest.hexdigest(),
            path.stat().st_size,
            picture.content_type,
            picture.width,
            picture.height,
        )

    @contextmanager
    def _scratch_file(self, name: str) -> Iterator[Path]:
        """Give the path of a file that is gone afterwards; a disk that fails is no fault of the asset."""
        path = self._scratch / name
        try:
            yield path
        except OSError as error:
            raise StoreError(f"cannot use {path}: {error.strerror}") from error
        finally:
            with suppress(
                OSError
            ):  # never there, or on a disk turned read-only; the next worker empties the folder
                path.unlink()

    def _set_aside(self, claimed: Claimed[Asset]) -> None:
        """Give up what workers crash over, so that they can get on with the rest."""
        log.error(
            "asset set aside",
            ref=claimed.row.ref,
            index=claimed.row.idx,
            crashes=claimed.row.crashes,
        )
        with suppress(ClaimLostError):
            self._give_up(claimed, AssetState.FAILED, set_aside(claimed.row))

    def _record_failure(self, claimed: Claimed[Asset], error: ReceiverError) -> None:
        with suppress(ClaimLostError):
            self._decide(claimed, error)

    def _decide(self, claimed: Claimed[Asset], error: ReceiverError) -> None:
        """Decide what a failed attempt means: over, or due again while its URL lives."""
        asset, now, text = claimed.row, self._now(), str(error)
        gone, suspicious = (
            isinstance(error, SourceGoneError),
            asset.attempts >= ATTEMPTS_BEFORE_REFRESH,
        )
        if error.permanent or self._is_bad_too_often(asset, error):
            self._give_up(claimed, AssetState.FAILED, text)
        elif isinstance(error, StoreError) and now < asset.expires_at + self._url_lifetime:
            # The archive is away, which says nothing about the asset. Its URL may well outlive its promise.
            self._assets.retry(
                claimed,
                now + back_off(1, (STORE_RETRY_DELAY,)),
                text,
                counted=False,
            )
        elif now < asset.expires_at:
            due_at = min(now + back_off(asset.attempts, BACK_OFF), asset.expires_at)
            self._assets.retry(claimed, due_at, text, refresh_url=gone and suspicious)
        elif gone and not suspicious:
            # It was us who came late, after an outage perhaps: the provider may have a fresh URL.
            self._assets.retry(
                claimed, now + back_off(asset.attempts, BACK_OFF), text, refresh_url=True
            )
        else:
            end = timestamp(asset.expires_at)
            self._give_up(
                claimed,
                AssetState.EXPIRED,
                f"not archived while its URL lived (until {end}), {asset.attempts} attempts: {text}",
            )

    def _is_bad_too_often(self, asset: Asset, error: ReceiverError) -> bool:
        """Count the files of a source that are no picture; other faults do not count, they may last as long as the URL."""
        if isinstance(error, NotThePictureError):
            if asset.url.startswith(INLINE):
                return True  # the ledger will never serve other bytes
            self._bad_files[asset.ref, asset.idx] += 1
        return self._bad_files[asset.ref, asset.idx] >= MAX_BAD_FILES

    def _give_up(self, claimed: Claimed[Asset], state: AssetState, text: str) -> None:
        self._assets.give_up(claimed, state, text)
        self._bad_files.pop((claimed.row.ref, claimed.row.idx), None)


def decode_base64_image(body: bytes, url: str, into: Path) -> Fetched:
    """Write the picture that ``url`` (``delivery:<index>``) names in the answer ``body`` to the new file ``into``.

    Raise UnreadableError if the answer has none there, NotThePictureError if it is no base64, OSError if the disk fails.
    """
    text = read_picture(body, url)
    digest, size = sha256(), 0
    with into.open("xb") as file:
        for start in range(0, len(text), BASE64_CHUNK):
            try:
                chunk = a2b_base64(text[start : start + BASE64_CHUNK], strict_mode=True)
            except (Error, ValueError) as error:  # the latter for what is not ASCII
                raise NotThePictureError(f"the picture is not base64: {error}") from error
            digest.update(chunk)
            size += file.write(chunk)
    return Fetched(size, digest.hexdigest(), url, "")
