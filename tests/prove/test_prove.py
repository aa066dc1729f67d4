"""The prover: passes if the promises hold, fails if not, ends, and leaves nothing behind."""

import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from processes import ROOT, Finished, run, running
from waiting import until

from tests.prove.evidence import Evidence, Recovery
from tests.prove.faults import FAULTS
from tests.prove.promises import (
    ANSWERED,
    BACK_IN_TIME,
    CLEAN,
    EXPLAINED,
    NO_SILENCE,
    ON_DISK,
    ONCE,
    PAID_ONCE,
    examine,
)
from tests.prove.recording_proxy import Acknowledgement
from tests.prove.setups import SETUPS

PROVE = (
    "python",
    str(ROOT / "tests/prove/run.py"),
    "--setup",
    "sqlite+directory",
    "--rounds",
    "1",
    "--seed",
    "7",
)
KEY = "2026/07/01/01ARCHIVED0000000000000000/0.png"


def prove(folder: Path, *options: str) -> Finished:
    return run((*PROVE, *options), {"TMPDIR": str(folder)}, folder=folder, within=110)


def living(folder: Path) -> list[int]:
    """Return the pids of all processes whose environment has this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"TMPDIR={folder}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def test_a_worker_killed_with_its_object_stored_breaks_no_promise(tmp_path: Path) -> None:
    done = prove(tmp_path, "--fault", "kill at stored")
    assert done.status == 0, done.out + done.err
    assert "every promise was kept" in done.out
    assert "kill at stored" in done.out
    assert not list(tmp_path.iterdir()), "the folder of a proof that passed is gone"
    assert not living(tmp_path)


def test_a_planted_loss_is_found_and_named_and_its_evidence_kept(tmp_path: Path) -> None:
    done = prove(tmp_path, "--fault", "before the answer", "--seeded-fault", "object")
    assert done.status == 1, done.out + done.err
    assert f"promise {ONCE}: " in done.out
    assert "archived, but there is no such object" in done.out
    (kept,) = tmp_path.glob("prove-*/round-*/evidence.json")
    assert str(kept.parent) in done.out
    assert (kept.parent / "data" / "ledger.sqlite3").exists()
    assert not living(tmp_path)


def test_ctrl_c_ends_everything(tmp_path: Path) -> None:
    with running((*PROVE, "--fault", "kill tree"), {"TMPDIR": str(tmp_path)}, tmp_path) as proof:
        until(
            lambda: list(tmp_path.glob("prove-*/round-*/data/worker.fifo")),
            within=60,
            what="that the service works",
        )
        assert proof.stop(signal.SIGINT, within=40) == 130
        assert "interrupted" in proof.output()
    until(lambda: not living(tmp_path), what="that nothing lives on")
    assert not list(tmp_path.glob("prove-*"))


def test_every_fault_and_setup_is_explained() -> None:
    page = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    assert [name for name in (*FAULTS, *SETUPS) if f"`{name}`" not in page] == []


# The evidence of two jobs without a fault: one archived and one failed.


def task(prompt: str, ref: str, files: list[str], **script: Any) -> dict[str, Any]:
    named = [{"sha256": sha256} for sha256 in files]
    return {
        "id": f"id of {prompt}",
        "prompt": prompt,
        "webhook": f"http://x/callback/{ref}.sig",
        "files": named,
        "request": {"sandbox": script},
    }


def job(prompt: str, ref: str, state: str, reason: str | None = None) -> dict[str, Any]:
    return {
        "ref": ref,
        "prompt": prompt,
        "provider_id": f"id of {prompt}",
        "state": state,
        "reason": reason,
        "message": "",
        "finished_at": 9.0,
    }


def delivery(number: int, ref: str, digest: str) -> dict[str, Any]:
    return {
        "id": number,
        "ref": ref,
        "source": "callback",
        "digest": digest,
        "body_digest": digest,
        "size": 1,
        "received_at": 1.0,
    }


@pytest.fixture
def evidence() -> Evidence:
    """Make evidence in which every promise is kept, and check that."""
    good, bad = "01ARCHIVED0000000000000000", "01FAILED000000000000000000"
    asset = {"ref": good, "idx": 0, "state": "archived", "key": KEY, "sha256": "aa"}
    made = Evidence(
        acknowledged=[
            Acknowledgement(good, "d1", 1, 2),
            Acknowledgement(good, "d2", 3, 4),
            Acknowledgement(bad, "d3", 1, 2),
        ],
        tasks=[task("a", good, ["aa"]), task("b", bad, [], fail="error")],
        jobs=[job("a", good, "archived"), job("b", bad, "failed", "provider_error")],
        assets=[asset],
        deliveries=[delivery(1, good, "d1"), delivery(2, bad, "d3"), delivery(3, good, "d2")],
        events=[
            {"ref": good, "idx": 0, "type": "asset.archived"},
            {"ref": good, "idx": -1, "type": "job.archived"},
            {"ref": bad, "idx": -1, "type": "job.failed"},
        ],
        objects={KEY: "aa"},
        manifests={
            KEY.replace("0.png", "job.json"): {
                "state": "archived",
                "assets": [{"index": 0, "key": KEY, "sha256": "aa"}],
                "deliveries": [{"sha256": "d1"}],
            }
        },
        recoveries=[Recovery("kill", 4.9, 5.0)],
    )
    assert examine(made) == []
    return made


def found(evidence: Evidence) -> set[str]:
    return {broken.promise for broken in examine(evidence)}


DAMAGES: dict[str, tuple[str, Callable[[Evidence], object]]] = {
    "an acknowledged delivery is gone": (ON_DISK, lambda seen: seen.deliveries.pop(1)),
    "an acknowledged delivery is kept once of twice": (
        ON_DISK,
        lambda seen: seen.acknowledged.append(seen.acknowledged[0]),
    ),
    "the later delivery stands first": (ON_DISK, lambda seen: seen.deliveries.reverse()),
    "a kept body is another": (
        ON_DISK,
        lambda seen: seen.deliveries[0].update(body_digest="other"),
    ),
    "a callback was cut": (ANSWERED, lambda seen: seen.cut.append("reset")),
    "a job is silent": (NO_SILENCE, lambda seen: seen.jobs[0].update(state="waiting")),
    "a job ended otherwise": (
        NO_SILENCE,
        lambda seen: seen.jobs[1].update(state="expired", reason=None),
    ),
    "a paid job is unknown": (NO_SILENCE, lambda seen: seen.jobs.pop(1)),
    "a job expired although a report came": (
        NO_SILENCE,
        lambda seen: seen.jobs[0].update(state="expired", provider_id=None),
    ),
    "a job that was never posted is archived": (
        NO_SILENCE,
        lambda seen: seen.jobs.append(job("c", "01C", "archived")),
    ),
    "an invariant is broken": (
        NO_SILENCE,
        lambda seen: seen.broken_invariants.update({"1 jobs are nowhere": []}),
    ),
    "an object is gone": (ONCE, lambda seen: seen.objects.clear()),
    "an orphan": (ONCE, lambda seen: seen.objects.update({KEY.replace("png", "webp"): "aa"})),
    "other bytes": (ONCE, lambda seen: seen.objects.update({KEY: "bb"})),
    "a result without an asset": (
        ONCE,
        lambda seen: seen.tasks[0]["files"].append({"sha256": "cc"}),
    ),
    "an end is announced twice": (ONCE, lambda seen: seen.events.append(seen.events[1])),
    "an end is not announced": (ONCE, lambda seen: seen.events.pop()),
    "an order is posted twice": (
        PAID_ONCE,
        lambda seen: seen.tasks.append(task("a", "01OTHER", [])),
    ),
    "two tasks are one job": (
        PAID_ONCE,
        lambda seen: seen.tasks.append({**seen.tasks[0], "id": "2", "prompt": "c"}),
    ),
    "no manifest": (EXPLAINED, lambda seen: seen.manifests.clear()),
    "a manifest of another state": (
        EXPLAINED,
        lambda seen: next(iter(seen.manifests.values())).update(state="expired"),
    ),
    "a manifest of an unknown job": (
        EXPLAINED,
        lambda seen: seen.manifests.update({"2026/07/01/01UNKNOWN/job.json": {}}),
    ),
    "a temporary file": (CLEAN, lambda seen: seen.left_over.append("archive/.tmp/x")),
    "a slow recovery": (
        BACK_IN_TIME,
        lambda seen: seen.recoveries.append(Recovery("kill", 5.1, 5.0)),
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_each_kind_of_damage_is_found_as_a_breach_of_its_promise(
    name: str, evidence: Evidence
) -> None:
    promise, damage = DAMAGES[name]
    damage(evidence)
    assert promise in found(evidence)


def test_a_job_may_expire_that_was_not_heard_of_in_time(evidence: Evidence) -> None:
    evidence.tasks.append(task("c", "01C", []))
    evidence.jobs.append(job("c", "01C", "expired"))
    evidence.events.append({"ref": "01C", "idx": -1, "type": "job.expired"})
    assert found(evidence) == set()
    evidence.acknowledged.append(Acknowledgement("01C", "d4", 9.5, 9.6))
    evidence.deliveries.append(delivery(4, "01C", "d4") | {"received_at": 9.5})
    assert found(evidence) == set(), "the report came too late"
    evidence.deliveries[-1]["received_at"] = 8.9
    assert found(evidence) == {NO_SILENCE}
    evidence.deliveries[-1]["received_at"] = 9.5
    evidence.provider_ids["c"] = "id of c"
    assert found(evidence) == {NO_SILENCE}, "its id was known"


def test_a_rebuilt_ledger_may_lack_bodies_but_no_digest(evidence: Evidence) -> None:
    evidence.rebuilt = True
    evidence.deliveries[0].update(size=0, body_digest="that of nothing")
    assert found(evidence) == set()
    evidence.deliveries[0].update(size=1)
    assert found(evidence) == {ON_DISK}
