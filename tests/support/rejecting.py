"""Jobs whose files failed inspection, and what an operator does with them."""

import hashlib
import json
from pathlib import Path
from typing import Any

from archives import put
from ledgers import BASE_URL, LedgerHarness, succeeded, urls

from receiver.archive.manifest import asset_key, manifest_key, quarantine_key
from receiver.archive.quarantine import Quarantine
from receiver.archive.stores import Store
from receiver.ledger.claims import Claimed
from receiver.ledger.rows import Asset, Job, Rejected, StoredAsset
from receiver.model import AssetState

HALF = b"\x89PNG\r\n\x1a\n half a picture"
WHY = "cut short: PNG"


class RejectedJobs:
    """A ledger and a store with jobs as a worker leaves them, but nothing is downloaded."""

    def __init__(self, ledger: LedgerHarness, store: Store, folder: Path) -> None:
        self.ledger = ledger
        self.store = store
        store.check()
        self.quarantine: Quarantine = ledger.quarantine(store, folder / "accepting")
        self.operator = ledger.make_operator(self.quarantine)
        self._reconciler = ledger.reconciler(store, None, BASE_URL)
        self._tasks = 0

    def unfinished(self, *files: bytes | None) -> str:
        """Create a job with an asset for each file; return its ref.

        A file is in the quarantine and its asset failed. None: the asset is archived.
        """
        self._tasks += 1
        task = f"task-{self._tasks}"
        ref = self.ledger.waiting(task)
        self.ledger.deliver(ref, succeeded(*urls(len(files)), provider_id=task))
        for claimed in self.ledger.assets.claim(len(files)):
            data = files[claimed.row.idx]
            if data is None:
                self.ledger.assets.finish(claimed, self.stored(claimed))
            else:
                self.give_up(claimed, data)
        return ref

    def job(self, *files: bytes | None) -> str:
        """Create a job and end it; see ``unfinished``."""
        ref = self.unfinished(*files)
        self.conclude(ref)
        return ref

    def stored(self, claimed: Claimed[Asset], data: bytes = b"a picture") -> StoredAsset:
        """Store a result file; return what a worker records about it."""
        key = asset_key(claimed.row.ref, claimed.row.idx, "png")
        put(self.store, key, data)
        return StoredAsset(key, hashlib.sha256(data).hexdigest(), len(data), "image/png", 8, 8)

    def keep(self, ref: str, idx: int, data: bytes) -> Rejected:
        """Put a file into the quarantine; return what a worker records about it."""
        sha256 = hashlib.sha256(data).hexdigest()
        put(self.store, quarantine_key(ref, idx, sha256), data)
        return Rejected(sha256, len(data), "image/png", WHY, self.ledger.clock())

    def give_up(self, claimed: Claimed[Asset], data: bytes) -> None:
        """End an asset whose last file was rejected."""
        rejected = self.keep(claimed.row.ref, claimed.row.idx, data)
        self.ledger.assets.give_up(claimed, AssetState.FAILED, WHY, rejected=rejected)

    def conclude(self, ref: str) -> Job:
        """End a job that is due; return it."""
        (claimed,) = [one for one in self.ledger.jobs.claim(100) if one.row.ref == ref]
        self._reconciler.reconcile_job(claimed)
        return self.ledger.job(ref)

    def manifest(self, ref: str) -> Any:
        """Return the content of a job's manifest."""
        with self.store.open(manifest_key(ref)) as file:
            return json.loads(file.read())

    def objects(self) -> dict[str, bytes]:
        """Return every object but the manifests."""
        found = {}
        for key, _ in self.store.keys(""):
            if not key.endswith("/job.json"):
                with self.store.open(key) as file:
                    found[key] = file.read()
        return found
