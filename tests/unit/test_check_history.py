"""The checker of a proof's history: it finds each kind of tampering, from the file alone."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.prove.check_history import check

Lines = list[dict[str, Any]]
PICTURE, REPORT = "aa", "dd"


def history() -> Lines:
    """Return a round with an archived, a failed and an expired job, in which all is kept."""
    lines: Lines = [{"what": "begin"}]
    for ref, ends, files in (
        ("A", "archived", [PICTURE]),
        ("F", "failed", []),
        ("E", "archived", []),
    ):
        task = {"task": f"task {ref}", "prompt": f"prompt {ref}", "ref": ref}
        lines.append({"what": "posted", "ends": ends, "files": files, **task})
    for what in ("acknowledged", "kept"):
        lines += [{"what": what, "at": 2.0, "ref": ref, "sha256": REPORT} for ref in "AF"]
    lines += [
        {"what": "job", "ref": ref, "task": f"task {ref}", "state": state, "ended": 3.0}
        for ref, state in (("A", "archived"), ("F", "failed"), ("E", "expired"))
    ]
    lines += [
        {"what": "object", "ref": "A", "index": 0, "sha256": PICTURE},
        {"what": "manifest", "ref": "A", "state": "archived", "files": [PICTURE]},
        {"what": "recovered", "after": "kill", "seconds": 4.0, "allowed": 5.0},
    ]
    kinds = [
        ("A", "asset.archived"),
        ("A", "job.archived"),
        ("F", "job.failed"),
        ("E", "job.expired"),
    ]
    lines += [
        {"what": "event", "id": f"{ref} {kind}", "ref": ref, "type": kind} for ref, kind in kinds
    ]
    lines.append(dict(lines[-1]))  # an event may come twice
    return ended(lines)


def ended(lines: Lines) -> Lines:
    """Write the last line of a round again, as an attacker who hides a change would."""
    lines = [line for line in lines if line["what"] != "end"]
    return [*lines, {"what": "end", "lines": len(lines) + 1}]


def found(lines: Lines) -> list[str]:
    return check("\n".join(json.dumps({"round": 1, **line}) for line in lines))[1]


def line(lines: Lines, what: str, number: int = 0) -> dict[str, Any]:
    return [one for one in lines if one["what"] == what][number]


def without(what: str, number: int = 0) -> Callable[[Lines], object]:
    return lambda lines: lines.remove(line(lines, what, number))


def changed(what: str, number: int = 0, **values: object) -> Callable[[Lines], object]:
    return lambda lines: line(lines, what, number).update(values)


def added(what: str, number: int = 0, **values: object) -> Callable[[Lines], object]:
    return lambda lines: lines.append({**line(lines, what, number), **values})


TAMPERED: dict[str, tuple[str, Callable[[Lines], object]]] = {
    "an acknowledged report is not in the ledger": ("1:", without("kept")),
    "a report is in the ledger once, acknowledged twice": ("1:", added("acknowledged")),
    "a report with other bytes is in the ledger": ("1:", changed("kept", sha256="ee")),
    "an object is gone": ("2:", without("object")),
    "an object has other bytes": ("2:", changed("object", sha256="bb")),
    "an object is there twice": ("2:", added("object")),
    "an object without a job": ("2:", added("object", ref="X")),
    "a task has no job": ("3:", without("job")),
    "a job is not final": ("3:", changed("job", state="archiving")),
    "a job ended otherwise": ("3:", changed("job", 1, state="expired")),
    "a job expired although its report had come": ("3:", added("kept", ref="E", at=2.9)),
    "an end was not announced": ("3:", without("event", 1)),
    "an end was announced twice": ("3:", added("event", 1, id="another")),
    "a wrong end was announced": ("3:", changed("event", 2, type="job.archived")),
    "a task was posted twice": ("6:", added("posted", task="another")),
    "there is no manifest": ("7:", without("manifest")),
    "a manifest names another file": ("7:", changed("manifest", files=["bb"])),
    "a recovery was slow": ("back in time", changed("recovered", seconds=5.1)),
    "a request had no answer": (
        "answered",
        lambda lines: lines.append({"what": "unanswered", "request": "reset"}),
    ),
}


def test_a_history_in_which_every_promise_was_kept_passes() -> None:
    assert found(history()) == []


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_history_fails(name: str) -> None:
    promise, tamper = TAMPERED[name]
    lines = history()
    tamper(lines)
    broken = found(ended(lines))
    assert any(promise in one for one in broken), broken


@pytest.mark.parametrize("number", range(len(history())))
def test_a_history_without_one_of_its_lines_fails(number: int) -> None:
    lines = history()
    del lines[number]
    assert found(lines)
