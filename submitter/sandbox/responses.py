"""The JSON of tasks, refusals and answers in both generations of GRSAI's API. No I/O.

Legacy API: answers to submits and reads of results are wrapped as ``{"code", "msg", "data"}``. A
refusal is HTTP 200 with a ``code`` other than 0. Callbacks and stream events are the bare task
object. Newer API: everything is bare, a refusal is HTTP 400, and ``violation`` is a status.
"""

import hashlib
from typing import Any

from submitter.sandbox.files import Files, ResultFile
from submitter.sandbox.request import Kind
from submitter.sandbox.tasks import ReportKind, Task

_FAILURES = {
    "input_moderation": "the prompt was rejected by moderation",
    "output_moderation": "the result was rejected by moderation",
    "violation": "the result violates the content policy",
    "error": "generation failed, please submit again",
}


def submitted(task: Task) -> dict[str, Any]:
    """Return the answer to a submit that does not wait for the result."""
    if task.request.newer:
        return {"id": task.id, "status": "running", "progress": 0, "results": None, "error": ""}
    return envelope({"id": task.id})


def envelope(data: Any, code: int = 0, msg: str = "success") -> dict[str, Any]:
    """Return a legacy answer."""
    return {"code": code, "msg": msg, "data": data}


def refusal(message: str, status: int | None, *, newer: bool) -> tuple[dict[str, Any], int]:
    """Return body and HTTP status of a refusal; ``status`` overrides the usual one."""
    if newer:
        return {"status": "failed", "error": message}, status or 400
    return envelope(None, -1, message), status or 200


NOT_FOUND = envelope(None, -22, "task not found")
# Not documented for the newer API, so it is a refusal in the usual form.
NEWER_NOT_FOUND = {"status": "failed", "error": "task not found"}


def task_object(
    task: Task,
    files: Files,
    report: ReportKind = "final",
    progress: int | None = None,
    *,
    urls: bool = True,
) -> dict[str, Any]:
    """Return the bare task object.

    ``report`` is "final" (the current state), "running" (progress) or "contradiction" (a failure
    although the task succeeded). Without ``urls`` a success has no result.
    """
    status = {"running": "running", "contradiction": "failed"}.get(report, task.status)
    if status == "succeeded":
        shown = task.files if urls else []
        return _bare(task, status, 100, [_item(task, file, files.url(file)) for file in shown])
    progress = task.progress if progress is None else progress
    return _bare(task, status, progress, None, task.request.script.fail or "error")


def _bare(
    task: Task, status: str, progress: int, items: list[dict[str, Any]] | None, failure: str = ""
) -> dict[str, Any]:
    failed = status not in ("running", "succeeded")
    text = _FAILURES[failure] if failed else ""
    if task.request.newer:
        violation = failed and failure != "error"
        return {
            "id": task.id,
            "status": "violation" if violation else status,
            "progress": progress,
            "results": items,
            "error": text,
        }
    first = items[0] if items else {}
    body: dict[str, Any] = {
        "id": task.id,
        "url": first.get("url", ""),
        "progress": progress,
        "status": status,
    }
    if task.request.kind is Kind.IMAGE:
        body |= {"width": first.get("width", 0), "height": first.get("height", 0)}
    if task.request.kind is not Kind.VEO:
        body["results"] = items
    # The legacy API knows only the two kinds of moderation.
    reason = {"violation": "output_moderation"}.get(failure, failure) if failed else ""
    return body | {"failure_reason": reason, "error": text}


def _item(task: Task, file: ResultFile, url: str) -> dict[str, Any]:
    match task.request.kind:
        case Kind.CAPTIONED:
            return {"url": url, "content": f"Here is your picture: {task.request.prompt}"}
        case Kind.SORA:
            return {
                "url": url,
                "removeWatermark": True,
                "pid": f"s_{hashlib.sha256(file.seed.encode()).hexdigest()[:32]}",
            }
        case _:
            return {"url": url, "width": file.width, "height": file.height}
