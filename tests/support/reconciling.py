"""A reconciler with a ledger, an archive, and a sandbox as the provider."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import requests
from archiving import SIZE
from ledgers import LedgerHarness, stored
from submitting import grsai_clients
from waiting import until

from receiver.archive.manifest import manifest_key
from receiver.archive.stores.directory import DirectoryStore
from receiver.errors import MissingObjectError
from receiver.jobs.reconcile import ResultSource
from receiver.ledger.rows import Asset, Job
from receiver.model import Api, AssetState, Mode, Submission
from receiver.net.download import Fetcher
from receiver.net.policy import AddressPolicy
from receiver.providers.dialect import Task
from submitter.sandbox import Sandbox

PICTURE, PAGE, LATE = AssetState.ARCHIVED, AssetState.FAILED, AssetState.EXPIRED


class Provider:
    """Gives a reconciler scripted answers in turn, then repeats the last one.

    An answer is a body, an error, or a function that returns a body.
    """

    def __init__(self, *answers: bytes | Exception | Callable[[], bytes]) -> None:
        self._answers = list(answers)
        self.asked = 0

    def can_ask(self, provider: str) -> bool:  # noqa: ARG002 - there is one provider here
        return True

    def result(self, task: Task) -> bytes:  # noqa: ARG002 - there is one task here
        answer = self._answers[min(self.asked, len(self._answers) - 1)]
        self.asked += 1
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, bytes) else answer()


class ObservedStore(DirectoryStore):
    """A directory that calls ``before_manifest`` before a manifest is written."""

    before_manifest: Callable[[], object] = bool

    def replace(self, key: str, data: bytes, *, content_type: str) -> None:
        self.before_manifest()
        super().replace(key, data, content_type=content_type)


class ReconcileHarness:
    """A ledger with a manual clock, a store, and a reconciler that asks the sandbox.

    ``asks`` replaces the sandbox.
    """

    def __init__(self, ledger: LedgerHarness, folder: Path, sandbox: Sandbox) -> None:
        self.ledger = ledger
        self.sandbox = sandbox
        self.root = folder / "archive"
        self.store = ObservedStore(self.root)
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.asks(grsai_clients(sandbox.url))

    def asks(self, result_source: ResultSource | None) -> None:
        """Let the reconciler ask another provider, or none."""
        ledger = self.ledger
        self.reconciler = ledger.reconciler(self.store, result_source, self.sandbox.url)

    def ordered(self, api: Api = Api.DRAW, variants: int = 1, **script: Any) -> str:
        """Let the sandbox make pictures; return the task's id. It is done unless it has a delay."""
        path = {Api.DRAW: "/v1/draw/completions", Api.NEWER: "/v1/api/generate"}[api]
        body = {
            "model": "m",
            "prompt": "a fox",
            "size": "64x48",
            "variants": variants,
            "sandbox": script,
            "webHook": "-1",
        }
        headers = {"Authorization": "Bearer any"}
        answer = requests.post(
            self.sandbox.url + path,
            json={**body, "replyType": "async"},
            headers=headers,
            timeout=10,
        ).json()
        task_id = str(answer.get("data", answer)["id"])
        if not script.get("delay"):
            until(
                lambda: self.sandbox.task(task_id)["status"] != "running",
                what=f"the end of {task_id}",
            )
        return task_id

    def posted(
        self, api: Api = Api.DRAW, variants: int = 1, mode: Mode = Mode.WEBHOOK, **script: Any
    ) -> str:
        """Submit a job whose callbacks are lost; return its ref."""
        submission = Submission(
            "ein Fuchs, 一只狐狸", "m", {"size": "64x48", "variants": variants}, mode, api=api
        )
        ref = self.ledger.jobs.submit(submission, self.sandbox.url).ref
        self.ledger.jobs.record_accepted(ref, self.ordered(api, variants, **script))
        return ref

    def reconcile(self, ref: str) -> Job:
        """Reconcile a job when it is due; return it afterwards."""
        job = self.ledger.job(ref)
        assert job.due_at is not None
        self.ledger.clock.now = max(self.ledger.clock.now, job.due_at)
        (claimed,) = self.ledger.jobs.claim(2)
        self.reconciler.reconcile_job(claimed)
        return self.ledger.job(ref)

    def reconcile_until_final(self, ref: str) -> Iterator[Job]:
        """Reconcile a job each time it is due until it is final; yield it after each time."""
        job = self.reconcile(ref)
        yield job
        while job.finished_at is None:
            job = self.reconcile(ref)
            yield job

    def verify_hint(self) -> None:
        """Verify the one hint that is due."""
        (claimed,) = self.ledger.hints.claim(2)
        self.reconciler.verify_hint(claimed)

    def archive(self, ref: str) -> list[Asset]:
        """Archive the due assets of a job."""
        policy = AddressPolicy.parse([f"127.0.0.1:{self.sandbox.port}"], ())
        archiver = self.ledger.archiver(
            Fetcher(policy, max_bytes=10 * SIZE, timeout=10),
            self.store,
            self.scratch,
        )
        for claimed in self.ledger.assets.claim(10):
            archiver.archive(claimed)
        return self.ledger.assets_of(ref)

    def ended(self, *ends: AssetState) -> str:
        """Create a job whose assets ended so; return its ref."""
        ref = self.ledger.archiving(len(ends))
        for claimed in self.ledger.assets.claim(len(ends)):
            end = ends[claimed.row.idx]
            if end is PICTURE:
                self.ledger.assets.finish(claimed, stored(claimed))
            else:
                self.ledger.assets.give_up(
                    claimed, end, {PAGE: "an HTML page", LATE: "too late"}[end]
                )
        return ref

    def manifest(self, ref: str) -> dict[str, Any] | None:
        """Return a job's manifest; None where there is none."""
        try:
            with self.store.open(manifest_key(ref)) as file:
                return dict(json.loads(file.read()))
        except MissingObjectError:
            return None
