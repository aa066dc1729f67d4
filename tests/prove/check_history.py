"""Decide from a history alone whether the promises were kept: ``check_history.py FILE``.

It imports nothing of the service or of the prover. ``history.py`` says what the lines mean.
"""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Line = dict[str, Any]
Said = dict[str, list[Line]]


def broken(lines: list[Line]) -> Iterator[str]:
    """Yield what was broken in one round: the promise's number, the subject, what was found."""
    said: Said = defaultdict(list)
    for line in lines:
        said[line["what"]].append(line)
    if [one["lines"] for one in said["end"]] != [len(lines)]:
        yield "the history is not complete"
    yield from _reports(said)
    yield from _tasks(said)
    for one in said["recovered"]:
        if one["seconds"] > one["allowed"]:
            yield f"back in time: {one['seconds']:.1f} s after {one['after']}"
    for one in said["unanswered"]:
        yield f"answered: {one['request']}"


def _reports(said: Said) -> Iterator[str]:
    """Find every report that was acknowledged in the ledger, as often as it was acknowledged."""
    acknowledged, kept = (
        Counter((one["ref"], one["sha256"]) for one in said[what])
        for what in ("acknowledged", "kept")
    )
    for ref, sha256 in acknowledged - kept:
        yield f"1: {ref}: the report {sha256} was acknowledged and is not in the ledger"


def _tasks(said: Said) -> Iterator[str]:
    """Follow each task of the provider to its job and its objects; nothing may be left over."""
    jobs = {job["ref"]: job for job in said["job"]}
    by_task = {job["task"]: job for job in said["job"] if job["task"]}
    objects = {(one["ref"], one["index"]): one["sha256"] for one in said["object"]}
    if len(objects) < len(said["object"]):
        yield "2: a result is in the archive twice"
    for prompt, times in Counter(one["prompt"] for one in said["posted"]).items():
        if times > 1:
            yield f"6: {prompt}: was posted {times} times"
    for posted in said["posted"]:
        if job := jobs.get(posted["ref"]) or by_task.get(posted["task"]):
            files = [objects.pop((job["ref"], idx), None) for idx in range(len(posted["files"]))]
            yield from _job(job, posted, files, said)
        else:
            yield f"3: {posted['task']}: the provider has it, the ledger does not"
    for ref, index in objects:
        yield f"2: {ref}: no job has the object {index}"


def _job(job: Line, posted: Line, files: list[str | None], said: Said) -> Iterator[str]:
    """Compare a job with its task, its objects, its manifest and its events."""
    ref, state = job["ref"], job["state"]
    if state != posted["ends"] and not _in_doubt(job, posted, said):
        yield f"3: {ref}: is {state}, should be {posted['ends']}"
    if state == "archived" and files != posted["files"]:
        yield f"2: {ref}: the provider made {posted['files']}, the archive has {files}"
    manifests = [(one["state"], one["files"]) for one in said["manifest"] if one["ref"] == ref]
    if any(files) and manifests != [(state, files)]:
        yield f"7: {ref}: its manifest says {manifests}"
    events = {one["id"]: one["type"] for one in said["event"] if one["ref"] == ref}
    wanted = Counter([f"job.{state}"] + ["asset.archived"] * sum(map(bool, files)))
    came = Counter(kind for kind in events.values() if kind != "job.at_risk")
    if came != wanted and not said["rebuilt"]:
        yield f"3: {ref}: these events came: {dict(came)}"


def _in_doubt(job: Line, posted: Line, said: Said) -> bool:
    """Return whether a job may be expired: no report of it arrived before it expired."""
    heard = [one for one in said["acknowledged"] + said["kept"] if one["ref"] == job["ref"]]
    answered = any(one["prompt"] == posted["prompt"] for one in said["answered"])
    early = any(one["at"] < job["ended"] for one in heard)
    return job["state"] == "expired" and not answered and not early


def check(text: str) -> tuple[int, list[str]]:
    """Return the number of rounds of a history, and everything that was broken."""
    rounds: dict[int, list[Line]] = defaultdict(list)
    for line in text.splitlines():
        rounds[json.loads(line)["round"]].append(json.loads(line))
    found = [f"round {number}: {one}" for number, own in rounds.items() for one in broken(own)]
    return len(rounds), found


if __name__ == "__main__":
    number, found = check(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print("\n".join(found) or f"{number} rounds: every promise was kept")  # noqa: T201 - its result
    sys.exit(bool(found) or not number)
