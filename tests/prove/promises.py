"""The promises: each check is a pure function from a round's evidence to broken promises."""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from receiver.archive.manifest import quarantine_key
from receiver.model import FINAL_STATES, QUARANTINE
from tests.prove.evidence import Evidence, Row

ON_DISK = "1 (200 means it is on disk)"
ONCE = "2 (each result is archived once)"
NO_SILENCE = "3 (no silent job)"
PAID_ONCE = "6 (paid once)"
EXPLAINED = "7 (the archive explains itself)"
CLEAN = "nothing is left over"
BACK_IN_TIME = "back within 5 s"
ANSWERED = "every callback is answered"

_REF = 26  # characters of a ref at the beginning of a ticket


@dataclass(frozen=True, slots=True)
class Broken:
    """One finding: the promise, its subject (a job's ref, an object's key), and what was found."""

    promise: str
    about: str
    detail: str
    is_lost: bool = False  # counted as lost in the table
    is_twice: bool = False  # counted as duplicated


def examine(evidence: Evidence) -> list[Broken]:
    """Check every promise with the evidence; an empty list means that all were kept."""
    return [found for check in CHECKS for found in check(evidence)]


def acknowledged_is_kept(evidence: Evidence) -> Iterator[Broken]:
    """Find every delivery that was answered 200 in the ledger, as often as it was answered."""
    kept = Counter(
        (row["ref"], row["digest"]) for row in evidence.deliveries if row["source"] == "callback"
    )
    counted = Counter((answer.ref, answer.digest) for answer in evidence.acknowledged)
    for (ref, digest), times in (counted - kept).items():
        yield Broken(
            ON_DISK,
            ref,
            f"a delivery answered 200 is not in the ledger ({times} times, SHA-256 {digest})",
            is_lost=True,
        )


def kept_in_order(evidence: Evidence) -> Iterator[Broken]:
    """Check that deliveries that were answered one after the other have that order in the ledger.

    Copies of one body have no order.
    """
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, row in enumerate(evidence.deliveries):
        places[row["ref"], row["digest"]].append(place)
    single = [
        answer for answer in evidence.acknowledged if len(places[answer.ref, answer.digest]) == 1
    ]
    for ref, answers in _by(single, lambda answer: answer.ref).items():
        in_order = sorted(answers, key=lambda answer: answer.began)
        for earlier, later in itertools.pairwise(in_order):
            if (
                earlier.ended < later.began
                and places[ref, earlier.digest] > places[ref, later.digest]
            ):
                yield Broken(
                    ON_DISK,
                    ref,
                    f"delivery {later.digest} comes before {earlier.digest},"
                    " which was answered before it was sent",
                )


def kept_as_it_came(evidence: Evidence) -> Iterator[Broken]:
    """Hash every kept body again."""
    for row in evidence.deliveries:
        is_gone = evidence.rebuilt and row["size"] == 0
        if row["digest"] != row["body_digest"] and not is_gone:
            yield Broken(
                ON_DISK,
                row["ref"],
                f"the body of delivery {row['id']} is not the one that came",
                is_lost=True,
            )


def every_job_ends_as_scripted(evidence: Evidence) -> Iterator[Broken]:
    """Compare the provider's tasks with our jobs: a job's script decides how it ends."""
    jobs, in_doubt = _Jobs(evidence), _in_doubt(evidence)
    for task in evidence.tasks:
        job = jobs.of(task)
        if job is None:
            yield Broken(
                NO_SILENCE,
                task["id"],
                f"the provider has this job ({task['prompt']}), the ledger does not",
                is_lost=True,
            )
        elif (job["state"], job["reason"]) != (
            wanted := in_doubt.get(job["ref"]) or scripted_end(task)
        ):
            detail = (
                f"is {job['state']} {job['reason'] or ''} ({job['message']}),"
                f" by its script it should be {' '.join(filter(None, wanted))}"
            )
            yield Broken(NO_SILENCE, job["ref"], detail, is_lost=job["state"] != "failed")
    for job in jobs.without_task():
        if (job["state"], job["reason"]) not in {("expired", None), ("failed", "refused")}:
            yield Broken(
                NO_SILENCE,
                job["ref"],
                f"is {job['state']}, but the provider never had it",
                is_lost=True,
            )


def _in_doubt(evidence: Evidence) -> dict[str, tuple[str, str | None]]:
    """Return the jobs that may expire: no submit answer and no callback came in time."""
    came = [(row["ref"], row["received_at"]) for row in evidence.deliveries]
    came += [(answer.ref, answer.ended) for answer in evidence.acknowledged]
    first: dict[str, float] = {}
    for ref, moment in came:
        first[ref] = min(moment, first.get(ref, moment))
    silent = [
        job
        for job in evidence.jobs
        if job["state"] == "expired" and first.get(job["ref"], math.inf) > job["finished_at"]
    ]
    return {
        job["ref"]: ("expired", None)
        for job in silent
        if job["prompt"] not in evidence.provider_ids
    }


def scripted_end(task: Row) -> tuple[str, str | None]:
    """Return the state and the reason with which a task's job has to end."""
    script: dict[str, Any] = task["request"].get("sandbox") or {}
    if script.get("fail"):
        return "failed", {"error": "provider_error"}.get(script["fail"], script["fail"])
    if script.get("file") == {"mode": "expired", "times": 0}:
        return "expired", None
    return "archived", None


def the_ledger_agrees(evidence: Evidence) -> Iterator[Broken]:
    """Check the service's own audit: submitted = archived + failed + expired + in flight."""
    for invariant, refs in evidence.broken_invariants.items():
        yield Broken(
            NO_SILENCE,
            ", ".join(refs) or "the ledger",
            f"the audit says this invariant does not hold: {invariant}",
        )


def archived_once(evidence: Evidence) -> Iterator[Broken]:
    """Check that the archive's objects are exactly the ledger's assets.

    None is missing, none is extra, none exists twice under another extension. A worker that is
    killed may leave an extra rejected file in the quarantine.
    """
    known = {row["key"]: row for row in evidence.assets if row["key"]}
    kept = {
        quarantine_key(row["ref"], row["idx"], row["rejected_sha256"]): row
        for row in evidence.assets
        if row.get("quarantined_at") is not None
    }
    for key in kept.keys() - evidence.objects.keys():
        yield Broken(ONCE, kept[key]["ref"], f"the rejected file {key} is gone", is_lost=True)
    for key in evidence.objects.keys() - known.keys():
        if key.startswith(f"{QUARANTINE}/"):
            continue
        yield Broken(ONCE, key, "an object that no row of the ledger knows", is_twice=True)
    for key in known.keys() - evidence.objects.keys():
        yield Broken(
            ONCE,
            known[key]["ref"],
            f"the ledger calls {key} archived, but there is no such object",
            is_lost=True,
        )


def bytes_are_the_providers(evidence: Evidence) -> Iterator[Broken]:
    """Compare SHA-256 three ways: the provider's file, the ledger's row, the object's bytes."""
    jobs = _Jobs(evidence)
    made = {
        job["ref"]: [file["sha256"] for file in task["files"]]
        for task in evidence.tasks
        if (job := jobs.of(task))
    }
    for row in evidence.assets:
        if row["state"] != "archived":
            continue
        files = made.get(row["ref"], [])
        its = files[row["idx"]] if row["idx"] < len(files) else "none"
        stored = evidence.objects.get(row["key"], "none")
        if not its == row["sha256"] == stored:
            detail = (
                f"asset {row['idx']}: the provider made {its}, the ledger says {row['sha256']},"
                f" the archive has {stored}"
            )
            yield Broken(ONCE, row["ref"], detail, is_lost=True)
    for ref, job in jobs.by_ref.items():
        have = sum(row["ref"] == ref for row in evidence.assets)
        if job["state"] == "archived" and have != len(made.get(ref, [])):
            yield Broken(
                ONCE, ref, f"{have} assets of {len(made.get(ref, []))} results", is_lost=True
            )


def explained(evidence: Evidence) -> Iterator[Broken]:
    """Check that each job with an archived asset has a manifest that agrees with the ledger."""
    manifests = {name.split("/")[-2]: content for name, content in evidence.manifests.items()}
    assets = _by(evidence.assets, lambda row: row["ref"])
    digests = _by(evidence.deliveries, lambda row: row["ref"])
    for job in evidence.jobs:
        ref, own = job["ref"], assets.get(job["ref"], [])
        manifest = manifests.pop(ref, None)
        if manifest is None:
            if any(row["state"] == "archived" for row in own):
                yield Broken(EXPLAINED, ref, "has archived assets but no manifest", is_lost=True)
            continue
        said = (
            manifest["state"],
            [(asset["index"], asset["key"], asset["sha256"]) for asset in manifest["assets"]],
        )
        if said != (job["state"], [(row["idx"], row["key"], row["sha256"]) for row in own]):
            yield Broken(EXPLAINED, ref, f"its manifest says {said}")
        if unknown := Counter(one["sha256"] for one in manifest["deliveries"]) - Counter(
            row["digest"] for row in digests.get(ref, [])
        ):
            yield Broken(
                EXPLAINED,
                ref,
                f"its manifest names deliveries the ledger does not have: {sorted(unknown)}",
                is_lost=True,
            )
    for ref in manifests:
        yield Broken(EXPLAINED, ref, "has a manifest, but the ledger has no such job", is_lost=True)


def nothing_left_over(evidence: Evidence) -> Iterator[Broken]:
    """See that no temporary file outlived the service."""
    for name in evidence.left_over:
        yield Broken(CLEAN, name, "a temporary file was left behind")


def paid_once(evidence: Evidence) -> Iterator[Broken]:
    """See that the provider took no order twice; each order of a proof has a prompt of its own."""
    for prompt, times in Counter(task["prompt"] for task in evidence.tasks).items():
        if times > 1:
            yield Broken(PAID_ONCE, prompt, f"was posted {times} times", is_twice=True)
    jobs = _Jobs(evidence)
    tasks = Counter(job["ref"] for task in evidence.tasks if (job := jobs.of(task)))
    for ref, times in tasks.items():
        if times > 1:
            yield Broken(PAID_ONCE, ref, f"stands for {times} jobs of the provider", is_twice=True)


def announced_once(evidence: Evidence) -> Iterator[Broken]:
    """See that each end was announced by one event, and by the right one."""
    counted = Counter((row["ref"], row["idx"], row["type"]) for row in evidence.events)
    wanted = Counter(
        (job["ref"], -1, f"job.{job['state']}")
        for job in evidence.jobs
        if job["state"] in FINAL_STATES
    )
    wanted += Counter(
        (row["ref"], row["idx"], "asset.archived")
        for row in evidence.assets
        if row["state"] == "archived"
    )
    for (ref, _, kind), times in (counted - wanted).items():
        if kind != "job.at_risk":
            yield Broken(ONCE, ref, f"{kind} was announced {times} times too often", is_twice=True)
    for ref, _, kind in wanted - counted:
        yield Broken(ONCE, ref, f"{kind} was never announced", is_lost=True)


def back_in_time(evidence: Evidence) -> Iterator[Broken]:
    """Compare the recoveries with the time they may take."""
    for one in evidence.recoveries:
        if one.seconds > one.allowed:
            yield Broken(
                BACK_IN_TIME,
                one.what,
                f"worked again after {one.seconds:.1f} s; allowed here: {one.allowed:.1f} s",
            )


def always_answered(evidence: Evidence) -> Iterator[Broken]:
    """Check that every request was answered, where there is a service all the time."""
    for error in evidence.cut:
        yield Broken(ANSWERED, "a request", f"got no answer: {error}", is_lost=True)


CHECKS: tuple[Callable[[Evidence], Iterable[Broken]], ...] = (
    acknowledged_is_kept,
    kept_in_order,
    kept_as_it_came,
    every_job_ends_as_scripted,
    the_ledger_agrees,
    archived_once,
    bytes_are_the_providers,
    explained,
    nothing_left_over,
    paid_once,
    announced_once,
    back_in_time,
    always_answered,
)


class _Jobs:
    """Finds the job of a provider's task: by the ref in its callback URL, else by its id."""

    def __init__(self, evidence: Evidence) -> None:
        self.by_ref = {job["ref"]: job for job in evidence.jobs}
        self._by_id = {job["provider_id"]: job for job in evidence.jobs if job["provider_id"]}
        self._known = {job["ref"] for task in evidence.tasks if (job := self.of(task))}

    def of(self, task: Row) -> Row | None:
        """Return the job's row, if there is one."""
        ref = (task["webhook"] or "").rpartition("/")[2][:_REF]
        return self.by_ref.get(ref) or self._by_id.get(task["id"])

    def without_task(self) -> list[Row]:
        """Return the jobs that the provider does not have."""
        return [job for ref, job in self.by_ref.items() if ref not in self._known]


def _by(things: Iterable[Any], key: Callable[[Any], str]) -> dict[str, list[Any]]:
    sorted_out: dict[str, list[Any]] = defaultdict(list)
    for thing in things:
        sorted_out[key(thing)].append(thing)
    return sorted_out
