"""What a caller says about a job comes back in API, library, events and manifest."""

import json
from pathlib import Path
from typing import Any

import pytest
from api_jobs import archived, get
from archives import SAFE, ArchivedJobs, put, rebuild_ledger
from ledgers import LedgerHarness
from web_client import WebClient

from receiver.archive.manifest import manifest_key
from receiver.ledger.tables import job_metadata
from receiver.model import Mode, Submission

LABELS: dict[str, Any] = {
    "batch": "summer",
    "metadata": {"order": 4711, "shop": "北京"},
    "folder": "shop/a",
}


def made(ledger: LedgerHarness, prompt: str = "a fox", **labels: Any) -> str:
    """Insert a job; return its ref."""
    asked = Submission(prompt, "m", {"n": 2}, Mode.WEBHOOK, **labels)
    return ledger.jobs.submit(asked, "https://provider.test").ref


def test_the_job_object_is_whole_and_the_same_in_lists_alone_and_in_events(
    web: WebClient, tmp_path: Path
) -> None:
    plain = archived(web, tmp_path)
    asked = Submission("a fox", "m", {"urls": ["https://me:pw@a.test/b"]}, key="k", **LABELS)
    ref = web.services.jobs.submit(asked, "https://provider.test").ref
    web.services.jobs.record_refused(ref, "no credit")
    listed = {job["ref"]: job for job in get(web, "/api/jobs").json["jobs"]}
    events = get(web, "/api/events").json["events"]
    for one in (plain, ref):
        assert listed[one] == get(web, f"/api/jobs/{one}").json
        assert all(
            event["data"]["job"] == listed[one] for event in events if event["data"]["ref"] == one
        )
    job = listed[ref]
    assert {name: job[name] for name in LABELS} == LABELS
    assert job["request"] == {
        "model": "m", "prompt": "a fox", "params": {"urls": ["https://[secret]@a.test/b"]},
    }  # fmt: skip
    assert job["answered_at"] == job["finished_at"] is not None
    assert (job["mode"], job["key"], job["ended_at"], job["next"]) == ("webhook", "k", None, None)
    assert [asset["url"] for asset in listed[plain]["assets"]] == [f"/api/jobs/{plain}/assets/0"]


def test_a_long_prompt_is_cut_in_events_only(web: WebClient) -> None:
    ref = web.services.jobs.submit(Submission("é" * 100_000, "m", {}), "https://provider.test").ref
    web.services.jobs.record_refused(ref, "no credit")
    (event,) = get(web, "/api/events").json["events"]
    assert len(json.dumps(event)) < 256 * 1024
    assert event["data"]["job"]["prompt"].endswith("(100000 characters)")
    assert len(get(web, f"/api/jobs/{ref}").json["prompt"]) == 100_000


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("batch=summer", "ab"),
        ("batch=winter", ""),
        ("metadata=order%3D4711", "a"),
        ("metadata=order", "ab"),
        ("metadata=order%3D47", ""),
        ("metadata=shop%3D%E5%8C%97%E4%BA%AC&batch=summer", "a"),
        ("reason=refused", "b"),
        ("reason=refused&batch=summer&state=failed&model=m&q=fox", "b"),
        ("reason=violation", ""),
    ],
)
def test_jobs_are_found_by_batch_metadata_and_reason(
    web: WebClient, query: str, found: str
) -> None:
    labels: list[dict[str, Any]] = [LABELS, {"batch": "summer", "metadata": {"order": "4712"}}, {}]
    asked = [Submission("a fox", "m", {}, **one) for one in labels]
    refs = [web.services.jobs.submit(one, "https://provider.test").ref for one in asked]
    web.services.jobs.record_refused(refs[1], "no credit")
    jobs = get(web, f"/api/jobs?{query}").json["jobs"]
    assert {job["ref"] for job in jobs} == {refs["abc".index(name)] for name in found}


@pytest.mark.both_databases
def test_of_a_job_that_was_withdrawn_no_metadata_stay(ledger: LedgerHarness) -> None:
    ref = made(ledger, metadata={"order": 1})
    ledger.jobs.withdraw(ref)
    assert ledger.everything()[job_metadata.name] == []


@pytest.mark.both_databases
def test_params_of_an_earlier_release_are_shown_too(ledger: LedgerHarness) -> None:
    ref = made(ledger)
    long = json.dumps({"urls": ["x" * 9000]})
    ledger.execute(
        "UPDATE jobs SET params = :params, shown = NULL WHERE ref = :ref", params=long, ref=ref
    )
    (shown,) = ledger.queries.requests([ref]).values()
    assert shown.params["urls"][0].endswith("(9000 characters)")


def test_a_copy_of_a_jobs_folder_elsewhere_in_the_archive_is_reported_and_not_restored(
    directory_jobs: ArchivedJobs,
) -> None:
    ref = directory_jobs.job(SAFE, folder="shop")
    with directory_jobs.store.open(manifest_key(ref, "shop")) as file:
        put(directory_jobs.store, manifest_key(ref, "copies"), file.read())
    directory_jobs.empty_ledger()
    found = rebuild_ledger(directory_jobs)
    assert found.restored == 1
    assert found.problems.lines == [
        f"{manifest_key(ref, 'copies')}: folder: its own place is {manifest_key(ref, 'shop')}"
    ]
