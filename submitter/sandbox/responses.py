"""The two dialects GRSAI speaks: how a task, a refusal and an answer look in each. No I/O.

Legacy: submit and result answers are wrapped as ``{"code", "msg", "data"}``, a refusal is HTTP 200 with a ``code`` other than 0, callbacks
and stream events are the bare task object. Newer: everything is bare, a refusal is HTTP 400, ``violation`` is a status of its own.
"""

import hashlib
from typing import Any

from submitter.sandbox.files import Files, ResultFile
from submitter.sandbox.request import Kind
from submitter.sandbox.tasks import Report, Task

_TROUBLES = {
    "input_moderation": "the prompt was rejected by moderation",
    "output_moderation": "the result was rejected by moderation",
    "violation": "the result violates the content policy",
    "error": "generation failed, please submit again",
}


def submitted(task: Task) -> dict[str, Any]:
    """Answer a submit that does not wait for the result."""
    if task.order.newer:
        return {"id": task.id, "status": "running", "progress": 0, "results": None, "error": ""}
    return envelope({"id": task.id})


def envelope(data: Any, code: int = 0, msg: str = "success") -> dict[str, Any]:
    """Wrap a legacy answer."""
    return {"code": code, "msg": msg, "data": data}


def refusal(message: str, status: int | None, *, newer: bool) -> tuple[dict[str, Any], int]:
    """Give body and HTTP status of a refusal in the dialect's manner; ``status`` overrides its usual one."""
    if newer:
        return {"status": "failed", "error": message}, status or 400
    return envelope(None, -1, message), status or 200


NOT_FOUND = envelope(None, -22, "task not found")
# What the newer API says is unknown: a refusal in its usual form.
NEWER_NOT_FOUND = {"status": "failed", "error": "task not found"}


def task_object(
    task: Task,
    files: Files,
    report: Report = "final",
    progress: int | None = None,
    *,
    urls: bool = True,
) -> dict[str, Any]:
    """Give the bare task object: as it stands ("final"), as a report of progress, or as a failure that contradicts the result.

    Without ``urls`` a success looks as if it had no result.
    """
    status = {"running": "running", "contradiction": "failed"}.get(report, task.status)
    if status == "succeeded":
        return _bare(
            task,
            status,
            100,
            [_item(task, file, files.url(file)) for file in task.files] if urls else [],
        )
    return _bare(
        task,
        status,
        task.progress if progress is None else progress,
        None,
        task.order.script.fail or "error",
    )


def _bare(
    task: Task, status: str, progress: int, items: list[dict[str, Any]] | None, trouble: str = ""
) -> dict[str, Any]:
    fails = status not in ("running", "succeeded")
    text = _TROUBLES[trouble] if fails else ""
    if task.order.newer:
        refused = fails and trouble != "error"
        return {
            "id": task.id,
            "status": "violation" if refused else status,
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
    if task.order.kind is Kind.IMAGE:
        body |= {"width": first.get("width", 0), "height": first.get("height", 0)}
    if task.order.kind is not Kind.VEO:
        body["results"] = items
    # The legacy API has no word for a violation beyond the two kinds of moderation.
    reason = {"violation": "output_moderation"}.get(trouble, trouble) if fails else ""
    return body | {"failure_reason": reason, "error": text}


def _item(task: Task, file: ResultFile, url: str) -> dict[str, Any]:
    match task.order.kind:
        case Kind.CAPTIONED:
            return {"url": url, "content": f"Here is your picture: {task.order.prompt}"}
        case Kind.SORA:
            return {
                "url": url,
                "removeWatermark": True,
                "pid": f"s_{hashlib.sha256(file.seed.encode()).hexdigest()[:32]}",
            }
        case _:
            return {"url": url, "width": file.width, "height": file.height}
