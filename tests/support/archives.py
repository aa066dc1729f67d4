"""Archives for tests: jobs archived into a real store, invented jobs, and damage done to them."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

from ledgers import BASE_URL, LedgerHarness, succeeded, urls
from sqlalchemy import Connection, Table, delete

from receiver.archive.manifest import asset_key, manifest_key
from receiver.archive.stores import Store
from receiver.ledger.rows import StoredAsset
from receiver.ledger.tables import metadata
from receiver.maintenance.rebuild import Rebuilder, Rebuilt
from receiver.model import AssetState, JobState, Mark, Mode, Submission, new_ref

SAFE, BAD, LATE = AssetState.ARCHIVED, AssetState.FAILED, AssetState.EXPIRED


def put(store: Store, key: str, data: bytes) -> None:
    """Store an object."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "fetched"
        path.write_bytes(data)
        store.put(key, path, sha256=hashlib.sha256(data).hexdigest(), content_type="image/png")


class ArchivedJobs:
    """A ledger and a store with jobs that are archived as a worker does it, but not downloaded."""

    def __init__(self, ledger: LedgerHarness, store: Store) -> None:
        self.ledger = ledger
        self.store = store
        self._reconciler = ledger.reconciler(store, None, BASE_URL)
        self._tasks = 0

    def job(
        self,
        *ends: AssetState,
        key: str | None = None,
        prompt: str = "ein Fuchs, 一只狐狸",
        mode: Mode = Mode.WEBHOOK,
        **labels: Any,
    ) -> str:
        """Create a job whose assets end in these states (default: one archived); return its ref."""
        ref = self.unfinished(*ends, key=key, prompt=prompt, mode=mode, **labels)
        self.conclude(ref)
        return ref

    def unfinished(
        self,
        *ends: AssetState,
        key: str | None = None,
        prompt: str = "a fox",
        mode: Mode = Mode.WEBHOOK,
        **labels: Any,
    ) -> str:
        """Create a job whose assets are final, but the job itself is not finished yet."""
        self._tasks += 1
        task, count = f"task-{self._tasks}", len(ends or (SAFE,))
        ref = self.ledger.jobs.submit(
            Submission(prompt, "m", {"size": "64x48", "seed": 1.5}, mode, key=key, **labels),
            BASE_URL,
        ).ref
        self.ledger.jobs.record_accepted(ref, task)
        self.ledger.clock.advance(0.125)
        self.ledger.deliver(ref, succeeded(*urls(count), provider_id=task))
        self.ledger.clock.advance(0.25)
        for claimed in self.ledger.assets.claim(count):
            end = (ends or (SAFE,))[claimed.row.idx]
            if end is SAFE:
                data = f"{ref} {claimed.row.idx}".encode()
                name = asset_key(ref, claimed.row.idx, "png", claimed.row.folder)
                put(self.store, name, data)
                self.ledger.assets.finish(
                    claimed,
                    StoredAsset(
                        name,
                        hashlib.sha256(data).hexdigest(),
                        len(data),
                        "image/png",
                        64,
                        48,
                        defect="2 bytes after the end of the file",
                        marks=(Mark("c2pa", "caBX", 9), Mark("text", "parameters", 30)),
                    ),
                )
            else:
                self.ledger.assets.give_up(claimed, end, f"asset {end}")
        self.ledger.clock.advance(0.5)
        return ref

    def conclude(self, ref: str) -> None:
        """Write the manifest and end the job."""
        (claimed,) = [claimed for claimed in self.ledger.jobs.claim(100) if claimed.row.ref == ref]
        self._reconciler.reconcile_job(claimed)
        assert self.ledger.job(ref).finished_at is not None

    def key(self, ref: str, idx: int = 0) -> str:
        """Return the key of an archived asset."""
        return str(self.ledger.assets_of(ref)[idx].key)

    def corrupt(self, key: str, data: bytes) -> None:
        """Put other bytes under a key, without a hash in the metadata, as a broken disk would."""
        root = getattr(self.store, "_root", None)
        if root is not None:
            (root / key).write_bytes(data)
        else:
            self._s3().put_object(Bucket=self._bucket(), Key=self._name(key), Body=data)

    def remove(self, key: str) -> None:
        """Delete an object."""
        root = getattr(self.store, "_root", None)
        if root is not None:
            (root / key).unlink()
        else:
            self._s3().delete_object(Bucket=self._bucket(), Key=self._name(key))

    def edit_manifest(self, ref: str, /, **values: object) -> None:
        """Change a manifest."""
        with self.store.open(manifest_key(ref)) as file:
            content = json.loads(file.read())
        self.store.replace(
            manifest_key(ref),
            json.dumps({**content, **values}).encode(),
            content_type="application/json",
        )

    def empty_ledger(self) -> dict[str, list[tuple[Any, ...]]]:
        """Empty the ledger; return what was in it."""
        rows = self.ledger.everything()
        for table in reversed(metadata.sorted_tables):
            self.ledger.database.write(partial(_empty, table=table))
        return rows

    def _s3(self) -> Any:
        return self.store._bucket.client()  # type: ignore[attr-defined]

    def _bucket(self) -> str:
        return str(self.store._bucket.name)  # type: ignore[attr-defined]

    def _name(self, key: str) -> str:
        return str(self.store._name(key))  # type: ignore[attr-defined]


def rebuild_ledger(
    archived_jobs: ArchivedJobs,
    below: str = "",
    stopping: Event | None = None,
    shown: list[int] | None = None,
) -> Rebuilt:
    """Rebuild the ledger; append the progress, in jobs restored, to ``shown``."""
    show = (lambda found: shown.append(found.restored)) if shown is not None else bool
    ledger = archived_jobs.ledger
    return Rebuilder(
        archived_jobs.store,
        ledger.database,
        ledger.queries,
        job_timeout=ledger.timing.job_timeout,
        threads=4,
        stopping=stopping or Event(),
        show=show,
    ).run(below)


def _empty(connection: Connection, table: Table) -> None:
    connection.execute(delete(table))


def invented_jobs(
    count: int, start: float = 1_790_000_000.0
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield archived jobs that no ledger knows, oldest first: ref, and the two objects by key."""
    for number in range(count):
        ref, data = new_ref(start + number), f"picture {number}".encode()
        key = asset_key(ref, 0, "png")
        yield (
            ref,
            {
                key: data,
                manifest_key(ref): json.dumps(manifest_content(ref, key, data, number)).encode(),
            },
        )


def manifest_content(ref: str, key: str, data: bytes, number: int = 0) -> dict[str, Any]:
    """Return a manifest of format 1, written out here and not by the code under test."""
    moment = "2026-09-22T02:13:20.000Z"
    return {
        "format": 1,
        "ref": ref,
        "state": JobState.ARCHIVED,
        "reason": None,
        "message": "",
        "provider": "grsai",
        "base_url": "https://provider.test",
        "provider_id": f"made-up-{number}",
        "api": "draw",
        "mode": "webhook",
        "key": f"order-{number}",
        "request": {"model": "m", "prompt": f"fox {number}", "params": {}},
        "submitted_at": moment,
        "ended_at": moment,
        "finished_at": moment,
        "round": 0,
        "deliveries": [
            {"source": "callback", "verdict": "ended", "received_at": moment, "sha256": "a" * 64}
        ],
        "assets": [
            {
                "index": 0,
                "state": "archived",
                "key": key,
                "sha256": hashlib.sha256(data).hexdigest(),
                "size": len(data),
                "content_type": "image/png",
                "width": 8,
                "height": 8,
                "source_url": "https://files.test/0.png",
                "announced_at": moment,
                "expires_at": moment,
                "finished_at": moment,
                "attempts": 1,
                "error": "",
            }
        ],
    }


def write_files(root: Path, objects: dict[str, bytes]) -> None:
    """Write objects into a directory archive without a store, which is faster."""
    for key, data in objects.items():
        with suppress(FileExistsError):
            (root / key).parent.mkdir(parents=True)
        (root / key).write_bytes(data)
