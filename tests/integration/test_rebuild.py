"""A lost ledger is rebuilt from the archive: on both databases, from a directory and a bucket."""

import json
from pathlib import Path
from typing import Any

import pytest
from archives import (
    BAD,
    LATE,
    SAFE,
    ArchivedJobs,
    invented_jobs,
    put,
    rebuild_ledger,
    write_files,
)

from receiver.archive.manifest import asset_key, manifest_key
from receiver.errors import KeyTakenError
from receiver.ledger.tables import metadata
from receiver.model import JobState, Mode, Submission


def by_column(
    rows: dict[str, list[tuple[Any, ...]]], table: str, *, but: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """Return a table's rows with names, without the columns ``but``."""
    names = [column.name for column in metadata.tables[table].columns]
    return [
        {name: value for name, value in zip(names, row, strict=True) if name not in but}
        for row in rows[table]
    ]


def comparable(rows: dict[str, list[tuple[Any, ...]]]) -> dict[str, Any]:
    """Return all that a rebuild has to bring back."""
    events = [
        {**event, "payload": json.loads(event["payload"])}
        for event in by_column(rows, "events", but=("id", "rebuilt"))
    ]
    return {
        "jobs": by_column(rows, "jobs", but=("attempts",)),
        "assets": by_column(rows, "assets"),
        "job_metadata": by_column(rows, "job_metadata"),
        "deliveries": by_column(rows, "deliveries", but=("id", "body")),
        "events": sorted(
            events,
            key=lambda event: (event["ref"], event["created_at"], event["idx"] == -1, event["idx"]),
        ),
    }


@pytest.mark.both_databases
def test_every_state_a_manifest_can_have_comes_back_as_it_was(archived_jobs: ArchivedJobs) -> None:
    refs = [
        archived_jobs.job(SAFE, SAFE, key="order-4711"),
        archived_jobs.job(SAFE, BAD),
        archived_jobs.job(SAFE, LATE, BAD, mode=Mode.POLL),
        archived_jobs.job(
            prompt="", batch="summer", metadata={"order": 4711, "shop": "北京"}, folder="shop/a-b"
        ),
    ]
    assert [archived_jobs.ledger.job(ref).state for ref in refs] == [
        "archived",
        "failed",
        "expired",
        "archived",
    ]
    before = archived_jobs.empty_ledger()
    found = rebuild_ledger(archived_jobs)
    assert (found.restored, found.pictures, found.known) == (4, 5, 0)
    assert (found.problems.lines, found.unknown.lines) == ([], [])
    after = archived_jobs.ledger.everything()
    for kind, rows in comparable(before).items():
        assert comparable(after)[kind] == rows, kind
    assert [row["body"] for row in by_column(after, "deliveries")] == [b""] * 4
    assert {event["rebuilt"] for event in by_column(after, "events")} == {1}, (
        "or they would be sent again"
    )
    assert archived_jobs.ledger.totals.audit().ok


@pytest.mark.both_databases
def test_a_key_is_spent_again_after_a_rebuild_and_an_operator_may_retry_what_was_lost(
    archived_jobs: ArchivedJobs,
) -> None:
    lost = archived_jobs.job(SAFE, BAD, key="order-4711")
    archived_jobs.empty_ledger()
    rebuild_ledger(archived_jobs)
    with pytest.raises(KeyTakenError, match=f"belongs to job {lost}"):
        archived_jobs.ledger.jobs.submit(
            Submission("a fox", "m", {}, key="order-4711"), "https://provider.test"
        )
    job = archived_jobs.ledger.operator.retry(lost)
    assert (job.state, job.round, archived_jobs.ledger.pending(lost)) == ("archiving", 1, [1])


def test_a_retried_job_comes_back_in_its_round_so_that_no_event_is_taken_for_an_earlier_one(
    directory_jobs: ArchivedJobs,
) -> None:
    ref = directory_jobs.job(SAFE, BAD)
    directory_jobs.ledger.operator.retry(ref)
    (claimed,) = directory_jobs.ledger.assets.claim(1)
    directory_jobs.ledger.assets.give_up(claimed, LATE, "too late")
    directory_jobs.conclude(ref)
    directory_jobs.empty_ledger()
    rebuild_ledger(directory_jobs)
    assert (
        directory_jobs.ledger.job(ref).round,
        directory_jobs.ledger.job(ref).state,
        directory_jobs.ledger.job(ref).message,
    ) == (
        1,
        "expired",
        "asset 1: too late",
    )
    assert directory_jobs.ledger.totals.audit().ok


@pytest.mark.both_databases
def test_a_rebuild_run_twice_changes_nothing_and_leaves_alone_what_the_ledger_has(
    archived_jobs: ArchivedJobs,
) -> None:
    first, second = archived_jobs.job(), archived_jobs.job()
    archived_jobs.empty_ledger()
    rebuild_ledger(archived_jobs)
    archived_jobs.ledger.execute(
        "UPDATE jobs SET prompt = 'changed since' WHERE ref = :ref", ref=first
    )
    archived_jobs.ledger.execute("DELETE FROM events WHERE ref = :ref", ref=second)
    before = archived_jobs.ledger.everything()
    found = rebuild_ledger(archived_jobs)
    assert (found.restored, found.known, found.problems.count) == (0, 2, 0)
    assert archived_jobs.ledger.everything() == before


@pytest.mark.both_databases
def test_a_job_that_a_callback_has_adopted_meanwhile_stays_as_it_is(
    directory_jobs: ArchivedJobs,
) -> None:
    ref = directory_jobs.job()
    directory_jobs.empty_ledger()
    directory_jobs.ledger.deliver(ref, b'{"id": "task-1", "status": "running"}')
    found = rebuild_ledger(directory_jobs)
    assert (found.restored, found.known) == (0, 1)
    assert directory_jobs.ledger.job(ref).state is JobState.WAITING


@pytest.mark.both_databases
def test_a_job_in_flight_is_named_by_its_objects_and_nothing_is_invented(
    archived_jobs: ArchivedJobs,
) -> None:
    safe, unfinished = archived_jobs.job(), archived_jobs.unfinished(SAFE, SAFE)
    keys = [archived_jobs.key(unfinished, idx) for idx in (0, 1)]
    archived_jobs.empty_ledger()
    found = rebuild_ledger(archived_jobs)
    assert (found.restored, found.problems.count, found.unknown.lines) == (1, 0, keys)
    assert [job.ref for job in archived_jobs.ledger.queries.jobs()] == [safe]
    archived_jobs.ledger.deliver(
        unfinished,
        b'{"id": "task-2", "status": "succeeded", "results": [{"url": "https://files.test/0.png"}]}',
    )
    assert rebuild_ledger(archived_jobs).unknown.lines == [], "its callback has adopted it"


def test_objects_that_no_manifest_names_are_reported(archived_jobs: ArchivedJobs) -> None:
    ref = archived_jobs.job()
    stray = asset_key(ref, 0, "jpg")
    put(archived_jobs.store, stray, b"an earlier attempt")
    put(archived_jobs.store, "readme.txt", b"not ours")
    archived_jobs.empty_ledger()
    found = rebuild_ledger(archived_jobs)
    assert (found.restored, found.unknown.lines) == (1, [stray, "readme.txt"])


def test_reason_message_and_end_of_a_first_release_manifest_come_from_its_assets(
    directory_jobs: ArchivedJobs,
) -> None:
    ref = directory_jobs.job(SAFE, BAD)
    job = directory_jobs.ledger.job(ref)
    with directory_jobs.store.open(manifest_key(ref)) as file:
        content = json.loads(file.read())
    first = {
        name: value
        for name, value in content.items()
        if name not in {"reason", "message", "finished_at", "round"}
    }
    directory_jobs.corrupt(manifest_key(ref), json.dumps(first).encode())
    directory_jobs.empty_ledger()
    rebuild_ledger(directory_jobs)
    back = directory_jobs.ledger.job(ref)
    assert (
        (back.state, back.reason, back.message)
        == (job.state, job.reason, job.message)
        == ("failed", "bad_asset", "asset 1: asset failed")
    )
    assert back.finished_at == directory_jobs.ledger.assets_of(ref)[1].finished_at


@pytest.mark.both_databases
def test_a_key_and_an_id_that_another_job_has_by_now_are_left_to_it(
    archived_jobs: ArchivedJobs,
) -> None:
    old = archived_jobs.job(key="order-4711")
    archived_jobs.empty_ledger()
    newer = archived_jobs.ledger.jobs.submit(
        Submission("a fox", "m", {}, key="order-4711"), "https://provider.test"
    ).ref
    archived_jobs.ledger.jobs.record_accepted(newer, "task-1")
    found = rebuild_ledger(archived_jobs)
    assert (found.restored, found.problems.count) == (1, 1)
    assert (
        f"{old} is restored without its provider's id 'task-1', which job {newer} has "
        "and its key 'order-4711'" in found.problems.lines[0]
    )
    assert (
        archived_jobs.ledger.job(old).key,
        archived_jobs.ledger.job(old).provider_id,
        archived_jobs.ledger.job(newer).key,
    ) == (None, None, "order-4711")


def test_of_two_manifests_with_one_key_the_older_keeps_it(directory_jobs: ArchivedJobs) -> None:
    (first, one), (second, two) = invented_jobs(2)
    for objects in (one, two):
        write_files(Path(directory_jobs.store.locate("x")).parent, objects)
    directory_jobs.edit_manifest(second, key="order-0")
    found = rebuild_ledger(directory_jobs)
    assert (
        directory_jobs.ledger.job(first).key,
        directory_jobs.ledger.job(second).key,
        found.restored,
    ) == (
        "order-0",
        None,
        2,
    )
