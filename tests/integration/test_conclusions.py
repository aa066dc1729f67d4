"""How a job is concluded: by its assets, with one event, after a manifest with all we know."""

from dataclasses import asdict
from functools import partial

import pytest
from ledgers import NOW, running
from reconciling import LATE, PAGE, PICTURE, ReconcileHarness
from sqlalchemy import Connection, delete, update

from receiver.jobs.reconcile import ARCHIVE_PAUSE
from receiver.ledger import tables
from receiver.ledger.rows import Asset
from receiver.model import AssetState, JobState, Reason, timestamp


@pytest.mark.parametrize(
    ("ends", "state", "reason", "message"),
    [
        ([PAGE], JobState.FAILED, Reason.BAD_ASSET, "asset 0: an HTML page"),
        ([LATE], JobState.EXPIRED, None, "asset 0: too late"),
        ([PAGE, LATE], JobState.EXPIRED, None, "asset 0: an HTML page; asset 1: too late"),
        ([PICTURE, PAGE], JobState.FAILED, Reason.BAD_ASSET, "asset 1: an HTML page"),
        ([LATE, PICTURE], JobState.EXPIRED, None, "asset 0: too late"),
        ([PICTURE], JobState.ARCHIVED, None, ""),
        ([PICTURE, PICTURE], JobState.ARCHIVED, None, ""),
    ],
)
def test_a_job_ends_as_its_assets_did(
    harness: ReconcileHarness,
    ends: list[AssetState],
    state: JobState,
    reason: Reason | None,
    message: str,
) -> None:
    ref = harness.ended(*ends)
    (job,) = harness.reconcile_until_final(ref)
    assert (job.state, job.reason, job.message) == (state, reason, message)
    assert harness.ledger.event_types(ref) == ["asset.archived"] * ends.count(PICTURE) + [
        f"job.{state}"
    ]
    manifest = harness.manifest(ref)
    assert (manifest is not None) is (PICTURE in ends)  # every object has its manifest beside it
    assert manifest is None or (
        manifest["state"],
        [asset["state"] for asset in manifest["assets"]],
    ) == (state, ends)
    assert harness.ledger.totals.audit().ok


def test_an_archive_that_is_away_delays_the_end_and_no_more(harness: ReconcileHarness) -> None:
    ref = harness.ended(PICTURE)
    harness.root.write_text("a file where a directory should be")
    for _ in range(3):
        waiting = harness.reconcile(ref)
        assert (waiting.state, waiting.claim) == (JobState.ARCHIVING, None)
        assert waiting.due_at == harness.ledger.clock.now + ARCHIVE_PAUSE
    harness.root.unlink()
    assert harness.reconcile(ref).state is JobState.ARCHIVED
    assert harness.manifest(ref)


def test_the_manifest_is_written_before_the_event_of_the_end(harness: ReconcileHarness) -> None:
    ref = harness.ended(PICTURE)
    seen: list[object] = []
    harness.store.before_manifest = lambda: seen.append(
        (harness.ledger.job(ref).state, harness.ledger.event_types(ref))
    )
    harness.reconcile(ref)
    assert seen == [(JobState.ARCHIVING, ["asset.archived"])]


def test_who_lost_the_claim_while_the_manifest_was_written_ends_nothing(
    harness: ReconcileHarness,
) -> None:
    ref = harness.ended(PICTURE)
    harness.store.before_manifest = lambda: [
        harness.ledger.claims.take_over(),
        harness.ledger.jobs.claim(1),
    ]
    assert harness.reconcile(ref).state is JobState.ARCHIVING
    harness.store.before_manifest = bool
    assert harness.reconcile(ref).state is JobState.ARCHIVED
    assert harness.ledger.event_types(ref) == ["asset.archived", "job.archived"]


def test_the_manifest_has_all_that_the_ledger_has_about_a_job(harness: ReconcileHarness) -> None:
    ref = harness.posted(variants=2)
    task_id = harness.ledger.job(ref).provider_id
    harness.ledger.deliver(ref, running(task_id, 30))
    harness.ledger.clock.advance(0.1234)
    harness.reconcile(ref)
    harness.ledger.deliver(ref, running(task_id, 40))
    harness.archive(ref)
    manifest, job = harness.manifest(ref), harness.ledger.job(ref)
    assert manifest is not None
    assert job.state is JobState.ARCHIVED
    names = (
        "ref",
        "state",
        "reason",
        "message",
        "provider",
        "base_url",
        "provider_id",
        "api",
        "mode",
        "key",
        "batch",
        "folder",
        "round",
        "requested",
        "left_out",
    )
    assert manifest == {
        "format": 1,
        **{name: getattr(job, name) for name in names},
        "request": {
            "model": "m",
            "prompt": "ein Fuchs, 一只狐狸",
            "params": {"size": "64x48", "variants": 2},
        },
        "metadata": {},
        "submitted_at": timestamp(job.submitted_at),
        "answered_at": timestamp(job.answered_at),
        "ended_at": timestamp(job.ended_at),
        "finished_at": timestamp(job.finished_at),
        "deliveries": manifest["deliveries"],
        "assets": manifest["assets"],
    }
    deliveries = harness.ledger.queries.deliveries(ref)
    assert [row.verdict for row in deliveries] == ["progress", "ended", "late"]
    assert manifest["deliveries"] == [
        {
            "source": row.source,
            "verdict": row.verdict,
            "received_at": timestamp(row.received_at),
            "sha256": row.digest,
            "repaired": row.repaired,
            "proof": row.proof,
        }
        for row in deliveries
    ]
    assert manifest["assets"] == [as_in_manifest(asset) for asset in harness.ledger.assets_of(ref)]
    assert len(manifest["assets"]) == 2


def test_an_adopted_job_keeps_the_manifest_of_an_earlier_ledger_that_knows_more(
    harness: ReconcileHarness,
) -> None:
    ref = harness.posted()
    harness.reconcile(ref)
    harness.archive(ref)
    assert harness.ledger.job(ref).state is JobState.ARCHIVED
    before = harness.manifest(ref)
    # As if the ledger had been lost, and a late callback had made the new one adopt the job.
    adopted = {
        "model": "",
        "prompt": "",
        "params": "{}",
        "state": "archiving",
        "finished_at": None,
        "due_at": NOW,
    }
    change = update(tables.jobs).where(tables.jobs.c.ref == ref).values(adopted)
    for statement in (change, delete(tables.events).where(tables.events.c.type == "job.archived")):
        harness.ledger.database.write(partial(Connection.execute, statement=statement))
    assert harness.reconcile(ref).state is JobState.ARCHIVED
    assert harness.manifest(ref) == before


def as_in_manifest(asset: Asset) -> dict[str, object]:
    """Return every column of a final asset's row that matters, as the manifest names it.

    The doubt comes later than the manifest; the folder is the job's.
    """
    elsewhere = ("rejected", "quarantined")
    own = {"ref", "folder", "due_at", "claim", "crashes", "doubt"}
    assert asset.rejected is None
    names = {column.name for column in tables.assets.columns} - own
    columns = {
        {"idx": "index", "url": "source_url"}.get(name, name): getattr(asset, name)
        for name in names
        if not name.startswith(elsewhere)
    }
    return {
        **{
            name: timestamp(value) if name.endswith("_at") else value
            for name, value in columns.items()
        },
        "marks": [asdict(mark) for mark in asset.marks],
        "rejected": None,
    }
