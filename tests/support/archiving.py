"""A harness for archiving assets: ledger, archive, archiver, and sources that are real servers."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import requests
from ledgers import LedgerHarness, succeeded
from outside_network import Script, ScriptedServer

from receiver.archive.stores import Store
from receiver.ledger.claims import Claimed
from receiver.ledger.rows import Asset
from receiver.model import AssetState, Source
from receiver.net.download import Fetcher
from receiver.net.policy import AddressPolicy
from submitter.sandbox import Sandbox
from submitter.sandbox.pictures import picture

SIZE = 20_000
LIFETIME = 7200.0
PNG = picture("a picture", "png", 64, 48, SIZE, None)
OTHER_PNG = picture("another picture", "png", 32, 16, SIZE, None)


class ArchivingHarness:
    """A ledger whose clock the test sets, an archive, an archiver, and local servers as sources."""

    def __init__(self, ledger: LedgerHarness, store: Store, folder: Path, sandbox: Sandbox) -> None:
        self.ledger = ledger
        self.store = store
        self.sandbox = sandbox
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.fetch_from(sandbox.port)

    def fetch_from(
        self,
        *ports: int,
        max_bytes: int = 10_000_000,
        quarantine: tuple[int, int] = (2**32, 2**28),
    ) -> None:
        """Let the archiver fetch from these ports of this machine, and from nowhere else here.

        ``quarantine`` are the limits of the quarantine in bytes: in total, and per job.
        """
        policy = AddressPolicy.parse([f"127.0.0.1:{port}" for port in ports], ())
        self.archiver = self.ledger.archiver(
            Fetcher(policy, max_bytes=max_bytes, timeout=10),
            self.store,
            self.scratch,
            self.ledger.quarantine(self.store, self.scratch, limits=quarantine),
        )

    def post(self, path: str, body: Mapping[str, object]) -> bytes:
        """Post to the sandbox."""
        return requests.post(
            self.sandbox.url + path, json=body, headers={"Authorization": "Bearer any"}, timeout=10
        ).content

    def result(self, task_id: str) -> bytes:
        """Ask the sandbox for a task, in the provider's words."""
        return self.post("/v1/draw/result", {"id": task_id})

    def picture_made(self, **file: Any) -> tuple[str, str]:
        """Have the sandbox make a picture whose file behaves like this, and report its success.

        Return the job's ref and the task's id.
        """
        order = {
            "model": "m",
            "prompt": "a fox",
            "size": "64x48",
            "webHook": "-1",
            "sandbox": {"file": file or "ok"},
        }
        task_id = json.loads(self.post("/v1/draw/completions", order))["data"]["id"]
        while json.loads(result := self.result(task_id))["data"]["status"] == "running":
            pass  # it takes a few milliseconds, and each request is a round trip
        ref = self.ledger.waiting(task_id)
        self.ledger.deliver(ref, result, Source.POLL)
        return ref, task_id

    def announce(self, server: ScriptedServer) -> str:
        """Report a success whose file is on this server; return the job's ref."""
        self.fetch_from(server.port)
        ref = self.ledger.waiting()
        self.ledger.deliver(ref, succeeded(f"http://127.0.0.1:{server.port}/x.png"))
        return ref

    def file(self, task_id: str) -> dict[str, Any]:
        """Return what the sandbox knows of a task's file: its digest and how often it was read."""
        (file,) = self.sandbox.task(task_id)["files"]
        return dict(file)

    def claim(self) -> Claimed[Asset]:
        """Claim the one asset that is due."""
        (claimed,) = self.ledger.assets.claim(2)
        return claimed

    def attempt(self) -> Asset:
        """Make the attempt that is due now; return the asset afterwards.

        No attempt may leave a file in the scratch folder.
        """
        claimed = self.claim()
        self.archiver.archive(claimed)
        assert not self.scratch.is_dir() or list(self.scratch.iterdir()) == []
        (asset,) = self.ledger.assets_of(claimed.row.ref)
        return asset

    def attempts(self) -> Iterator[Asset]:
        """Make attempts, each when it is due, until the asset is final; yield it after each."""
        yield (asset := self.attempt())
        while asset.state is AssetState.PENDING:
            self.ledger.clock.now = due(asset)
            yield (asset := self.attempt())

    def job_due_now(self, ref: str) -> bool:
        """Return whether a job is due now, to be polled or to be concluded."""
        due_at = self.ledger.job(ref).due_at
        return due_at is not None and due_at <= self.ledger.clock.now

    def stored(self, key: str | None) -> bytes:
        """Return what the archive holds under a key."""
        with self.store.open(key or "nothing") as stream:
            return stream.read()

    def put(self, key: str, data: bytes) -> None:
        """Put an object into the store without the archiver."""
        path = self.scratch / "put"
        path.write_bytes(data)
        self.store.put(key, path, sha256=hashlib.sha256(data).hexdigest(), content_type="image/png")
        path.unlink(missing_ok=True)


def due(asset: Asset) -> float:
    """Return when a pending asset is due."""
    assert asset.due_at is not None
    return asset.due_at


@contextmanager
def scripted_source(*scripts: Script) -> Iterator[ScriptedServer]:
    """Run a server that plays one script for each connection, and repeats the last one."""
    with closing(ScriptedServer(scripts)) as server:
        yield server
