"""The history of a run: what was seen from outside the service, and the ledger at the end.

One JSON object a line, sorted by time within a round. ``round`` is the round's number, ``at`` a
time in seconds since the epoch. ``what`` is one of

- ``begin``, ``end``: of a round, with its faults and its setup; ``end`` has the number of lines;
- ``posted``: the provider took a task; ``ends`` is how it ends, ``files`` are the SHA-256 it made;
- ``answered``: the API answered an order with the provider's id;
- ``acknowledged``: a report was answered 200; ``sha256`` is that of its body;
- ``event``: an event arrived at its destination, perhaps again;
- ``kill``, ``recovered``, ``rebuilt``, ``unanswered``: what was done, and what followed;
- ``job``, ``kept``, ``object``, ``manifest``: jobs and reports in the ledger at the end, and what
  was in the archive, read without the service.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.prove.evidence import Evidence, Row
from tests.prove.promises import scripted_end

Line = dict[str, Any]


def write(path: Path, number: int, names: Sequence[str], setup: str, evidence: Evidence) -> None:
    """Write the history of one round."""
    lines = sorted(_lines(evidence), key=lambda line: float(line["at"]))
    first, last = (lines[0]["at"], lines[-1]["at"]) if lines else (0.0, 0.0)
    begin = {"what": "begin", "at": first, "faults": list(names), "setup": setup}
    end = {"what": "end", "at": last, "lines": len(lines) + 2}
    written = (json.dumps({"round": number, **line}) for line in (begin, *lines, end))
    path.write_text("\n".join(written) + "\n", encoding="utf-8")


def _lines(evidence: Evidence) -> Iterator[Line]:
    yield from evidence.happened
    for task in evidence.tasks:
        yield {
            "what": "posted",
            "at": task["submitted_at"],
            "task": task["id"],
            "prompt": task["prompt"],
            "ref": (task["webhook"] or "").rpartition("/")[2][:26],
            "ends": scripted_end(task)[0],
            "files": [file["sha256"] for file in task["files"]],
        }
        if task["prompt"] in evidence.provider_ids:
            yield {"what": "answered", "at": task["submitted_at"], "prompt": task["prompt"]}
    for one in evidence.acknowledged:
        yield {"what": "acknowledged", "at": one.ended, "ref": one.ref, "sha256": one.digest}
    for recovery in evidence.recoveries:
        seconds = {"seconds": recovery.seconds, "allowed": recovery.allowed}
        yield {"what": "recovered", "at": recovery.at, "after": recovery.what, **seconds}
    for error in evidence.cut:
        yield {"what": "unanswered", "at": 0.0, "request": error}
    yield from _at_the_end(evidence)


def _at_the_end(evidence: Evidence) -> Iterator[Line]:
    for job in evidence.jobs:
        names = {"ref": job["ref"], "task": job["provider_id"], "state": job["state"]}
        yield {"what": "job", "at": job["finished_at"] or 0.0, "ended": job["finished_at"], **names}
    for row in evidence.deliveries:
        if row["source"] == "callback":
            kept = {"ref": row["ref"], "sha256": row["digest"]}
            yield {"what": "kept", "at": row["received_at"], **kept}
    at = max((job["finished_at"] or 0.0 for job in evidence.jobs), default=0.0)
    for key, sha256 in evidence.objects.items():
        if not key.startswith("quarantine/"):
            *_, ref, name = key.split("/")
            index = int(name.partition(".")[0])
            yield {"what": "object", "at": at, "ref": ref, "index": index, "sha256": sha256}
    for key, manifest in evidence.manifests.items():
        yield {"what": "manifest", "at": at, "ref": key.split("/")[-2], **_said(manifest)}


def _said(manifest: Row) -> Line:
    return {
        "state": manifest["state"],
        "files": [asset["sha256"] for asset in manifest["assets"]],
    }
