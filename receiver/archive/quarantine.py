"""The quarantine: downloaded files that failed inspection are kept, and can be accepted.

The inspector may be wrong, and a file was paid for. So the last rejected file of each asset is
stored in a separate folder of the archive. Its size is limited per job and in total. It is removed
when a later file of the asset is archived, or when there is no more room: first older files of the
same job, then the oldest of all. The limit per job comes first, so an attacker who controls the
URLs of one job cannot push out the files of others.

An object is deleted before the ledger forgets it. So the ledger knows every object, unless a
worker is killed, or loses its claim, between storing one and recording it. When the asset is lost,
such an object is looked for and recorded; when it is archived after a crash, the object is removed.
`receiver audit --deep` lists any others.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryDirectory
from typing import BinaryIO

import structlog

from receiver.archive.manifest import asset_key, parse_quarantine_key, quarantine_key
from receiver.archive.stores import Store, verify
from receiver.errors import (
    FetchError,
    MissingObjectError,
    NotThePictureError,
    ObjectDiffersError,
    ReceiverError,
    StoreError,
    UnreadableError,
)
from receiver.ledger.quarantine import KeptFile, QuarantineRecords
from receiver.ledger.rows import Asset, Rejected, StoredAsset
from receiver.net.download import Fetched
from receiver.telemetry.metrics import REJECTED

log = structlog.get_logger(__name__)

# Files that are read from the ledger at once to be removed.
_BATCH = 100
_HEAD = 512  # bytes of a file that show of which kind it is
_OCTETS = "application/octet-stream"
# First bytes, media type and extension of files that may be accepted as what they look like. A file
# of any other kind, such as HTML or SVG, is only bytes, so that no browser ever runs it.
_TYPES = (
    (rb"\x89PNG\r\n\x1a\n", "image/png", "png"),
    (rb"\xff\xd8\xff", "image/jpeg", "jpg"),
    (rb"RIFF.{4}WEBP", "image/webp", "webp"),
    (rb"GIF8[79]a", "image/gif", "gif"),
    (rb".{4}ftypavi[fs]", "image/avif", "avif"),
    (rb".{4}ftyp(?:hei|mif)", "image/heic", "heic"),
    (rb".{4}ftypqt  ", "video/quicktime", "mov"),
    (rb".{4}ftyp", "video/mp4", "mp4"),
    (rb"\x1a\x45\xdf\xa3", "video/webm", "webm"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "image/jxl", "jxl"),
    (rb"II\*\0|MM\0\*", "image/tiff", "tiff"),
)
_TEXT = re.compile(rb"[\t\n\f\r\x20-\x7e\x80-\xff]*")


class Quarantine:
    """Keeps rejected files in ``store``, at most ``max_bytes``, and ``job_max_bytes`` of one job.

    ``folder`` is for temporary files. ``now`` returns seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        records: QuarantineRecords,
        folder: Path,
        *,
        max_bytes: int,
        job_max_bytes: int,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._records = records
        self._folder = folder
        self._max_bytes = max_bytes
        self._job_max_bytes = job_max_bytes
        self._now = now

    def keep(
        self, asset: Asset, path: Path, fetched: Fetched, error: FetchError | NotThePictureError
    ) -> "Rejection":
        """Store a rejected file and return what it means for the asset; ``path`` may be gone then.

        With a FetchError another download may bring more. If anything fails here, the attempt goes
        on: the file is not kept, the log says why, and the file is wanted once more. Such a file,
        which may be cut short, is kept only if it is longer than the one kept already.
        """
        if not fetched.size:
            return Rejection(error)
        with path.open("rb") as source:
            is_text = _is_text(source.read(_HEAD))
        twice = asset.rejected_sha256 == fetched.sha256
        final = twice and not is_text and isinstance(error, NotThePictureError)
        if twice and asset.quarantined_at is not None:
            # Not recorded again: it may have been removed since this attempt began, to make room
            # for others.
            return Rejection(_twice(error) if final else error, final=final)
        if isinstance(error, FetchError) and fetched.size <= _kept_size(asset):
            return Rejection(error)
        since, is_wanted = None, False
        try:
            since = self._stored_at(asset, path, fetched, is_text=is_text)
        except (StoreError, OSError) as failure:
            _log_not_kept(asset, fetched, str(failure))
            final, is_wanted = False, not is_text
        REJECTED.labels("not_kept" if since is None else "kept").inc()
        if since is None and asset.quarantined_at is not None:
            return Rejection(error, is_wanted=is_wanted)  # the earlier one stays
        claimed = "".join(filter(str.isprintable, fetched.content_type))
        file = Rejected(fetched.sha256, fetched.size, claimed, str(error), since)
        return Rejection(_twice(error) if final else error, file, final, is_wanted)

    def _stored_at(
        self, asset: Asset, path: Path, fetched: Fetched, *, is_text: bool
    ) -> float | None:
        """Store a file and return the time; return None if it is not wanted.

        A text never replaces a picture: when a URL has expired, the server may send a page.
        """
        if fetched.size > min(self._job_max_bytes, self._max_bytes):
            _log_not_kept(asset, fetched, "it is larger than the quarantine")
            return None
        if is_text and asset.quarantined_at is not None and not self._is_text(asset):
            _log_not_kept(asset, fetched, "it is a text, and an earlier file is none")
            return None
        self._make_room(asset, fetched.size, self._job_max_bytes, of_job=True)
        self._make_room(asset, fetched.size, self._max_bytes, of_job=False)
        key = quarantine_key(asset.ref, asset.idx, fetched.sha256)
        self._store.put(key, path, sha256=fetched.sha256, content_type=_OCTETS)
        log.info("rejected file kept", ref=asset.ref, index=asset.idx, key=key)
        return self._now()

    def _is_text(self, asset: Asset) -> bool:
        """Return whether the file that is kept of an asset is a text."""
        key = quarantine_key(asset.ref, asset.idx, asset.rejected_sha256 or "")
        with self._store.open(key) as file:
            return _is_text(file.read(_HEAD))

    def _make_room(self, asset: Asset, size: int, limit: int, *, of_job: bool) -> None:
        """Remove the oldest files until one of this size fits in place of the asset's present one.

        Workers that do this at the same time may exceed the limit by their files.
        """
        own = (asset.ref, asset.idx)
        excess = self._records.total_beside(*own, of_job=of_job).size + size - limit
        while excess > 0 and (oldest := self._records.oldest_beside(*own, _BATCH, of_job=of_job)):
            for file in oldest:
                if excess > 0:
                    self._remove(file)
                    log.warning("rejected file removed", ref=file.ref, index=file.idx, limit=limit)
                    excess -= file.size

    def _remove(self, file: KeptFile) -> None:
        self._store.delete(quarantine_key(file.ref, file.idx, file.sha256))
        self._records.forget(file)
        REJECTED.labels("removed").inc()

    def remove_old(self, asset: Asset, *, newer: str | None = None) -> None:
        """Remove the file of an asset that has got another one; ``newer`` is a newer file's hash.

        If that fails, the file is left behind, and the log says so.
        """
        old = asset.rejected_sha256
        if asset.quarantined_at is None or old is None or old == newer:
            return
        file = KeptFile(asset.ref, asset.idx, old, asset.rejected_size or 0)
        try:
            self._remove(file)
        except StoreError as error:
            log.warning(
                "rejected file not removed", ref=asset.ref, index=asset.idx, error=str(error)
            )

    def find_unrecorded(self, asset: Asset, error: str) -> Rejected | None:
        """Return a file that is kept of a lost asset although the ledger knows of none.

        If there are several, return the largest. ``error`` is why the asset is lost.
        """
        found = self._stored_files(asset)
        if not found:
            return None
        size, sha256 = max(found)
        log.info("rejected file recorded late", ref=asset.ref, index=asset.idx, sha256=sha256)
        why = f"the worker was gone before it could record why; later: {error}"
        return Rejected(sha256, size, "", why, self._now())

    def remove_unrecorded(self, asset: Asset) -> None:
        """Remove the files of an archived asset, of which the ledger knows none."""
        try:
            for _, sha256 in self._stored_files(asset):
                self._store.delete(quarantine_key(asset.ref, asset.idx, sha256))
        except StoreError as error:
            log.warning(
                "rejected file not removed", ref=asset.ref, index=asset.idx, error=str(error)
            )

    def _stored_files(self, asset: Asset) -> list[tuple[int, str]]:
        """Return size and SHA-256 of the asset's files; none if the archive is unavailable."""
        prefix = quarantine_key(asset.ref, asset.idx, "")
        try:
            return [
                (size, key.removeprefix(prefix))
                for key, size in self._store.keys(prefix.rpartition("/")[0])
                if key.startswith(prefix) and parse_quarantine_key(key) and size
            ]
        except StoreError as error:
            log.warning(
                "rejected files not listed", ref=asset.ref, index=asset.idx, error=str(error)
            )
            return []

    def restore(self, asset: Asset) -> StoredAsset:
        """Store the asset's rejected file as its result file; return what is stored now.

        Raise ReceiverError if the file is not kept, gone or damaged, or if another file is stored
        as the result; StoreError if the archive is unavailable.
        """
        name = f"the rejected file of asset {asset.idx} of {asset.ref}"
        found = asset.rejected
        if found is None or found.quarantined_at is None:
            raise ReceiverError(f"asset {asset.idx} of {asset.ref} has no file in the quarantine")
        key = quarantine_key(asset.ref, asset.idx, found.sha256)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with TemporaryDirectory(dir=self._folder) as folder:
                path = Path(folder) / "file"
                verify(self._store, key, lambda source: _save(source, path))
                return self._put(asset, found, path, name)
        except MissingObjectError as error:
            raise ReceiverError(f"{name} is gone: the archive holds no {key}") from error
        except UnreadableError as error:
            raise ReceiverError(f"{name} cannot be read: {error}") from error
        except ObjectDiffersError as error:
            raise ReceiverError(
                f"asset {asset.idx} of {asset.ref} has another file in the archive already: {error}"
            ) from error
        except OSError as error:
            raise StoreError(f"cannot use {self._folder}: {error.strerror}") from error

    def _put(self, asset: Asset, found: Rejected, path: Path, name: str) -> StoredAsset:
        with path.open("rb") as file:
            media_type, extension = _type_of(file.read(_HEAD))
            file.seek(0)
            digest, size = file_digest(file, "sha256").hexdigest(), path.stat().st_size
        if (digest, size) != (found.sha256, found.size):
            raise ReceiverError(
                f"{name} has changed in the archive: its SHA-256 is {digest} instead of "
                f"{found.sha256}"
            )
        key = asset_key(asset.ref, asset.idx, extension, asset.folder)
        self._store.put(key, path, sha256=digest, content_type=media_type)
        return StoredAsset(key, digest, size, media_type, None, None)


@dataclass(frozen=True, slots=True)
class Rejection:
    """An attempt that brought a bad file: why, what to record, and whether it is the last attempt.

    ``file`` is None if an earlier file stays in the quarantine, or if the new one is empty. The
    file ``is_wanted`` once more if the archive could not store it; a text is not.
    """

    error: FetchError | NotThePictureError
    file: Rejected | None = None
    final: bool = False
    is_wanted: bool = False


def _kept_size(asset: Asset) -> int:
    return (asset.rejected_size or 0) if asset.quarantined_at is not None else 0


def _twice(error: Exception) -> NotThePictureError:
    return NotThePictureError(
        f"{error}; the source sent the same file twice, so it is not downloaded again"
    )


def _log_not_kept(asset: Asset, fetched: Fetched, why: str) -> None:
    log.warning(
        "rejected file not kept", ref=asset.ref, index=asset.idx, size=fetched.size, error=why
    )


def extension_of(media_type: str) -> str:
    """Return the extension for a claimed media type; ``bin`` for those that a browser may run."""
    known = media_type.partition(";")[0].strip().lower()
    return next((extension for _, own, extension in _TYPES if own == known), "bin")


def _is_text(head: bytes) -> bool:
    """Return whether a file that begins with ``head`` is a page or another text.

    It may say "not ready yet", so the same text may come again before the picture.
    """
    return bool(_TEXT.fullmatch(head))


def _type_of(head: bytes) -> tuple[str, str]:
    """Return media type and extension of a file from its first bytes."""
    for signature, media_type, extension in _TYPES:
        if re.match(signature, head, re.DOTALL):
            return media_type, extension
    return _OCTETS, "bin"


def _save(source: BinaryIO, path: Path) -> None:
    with path.open("wb") as file:
        copyfileobj(source, file)
