"""The sandbox's own pages for tests and demonstrations, outside of what GRSAI has: what was asked, made, sent and counted."""

from typing import Any

from flask import Flask, request
from flask.typing import ResponseReturnValue

from submitter.sandbox.files import Files, ResultFile
from submitter.sandbox.runner import Studio
from submitter.sandbox.tasks import Task

_PAGE = 1000


def add_routes(app: Flask, studio: Studio) -> None:
    """Add /sandbox/tasks, /sandbox/tasks/<id> and /sandbox/stats."""

    @app.get("/sandbox/tasks")
    def tasks() -> ResponseReturnValue:
        """List tasks, oldest first; ``webhook`` picks those of one callback URL, ``limit`` and ``skip`` a page."""
        chosen = describe_all(studio, request.args.get("webhook"))
        skip, limit = request.args.get("skip", 0, int), request.args.get("limit", _PAGE, int)
        return {"tasks": chosen[skip : skip + limit], "total": len(chosen)}

    @app.get("/sandbox/tasks/<task_id>")
    def one_task(task_id: str) -> ResponseReturnValue:
        """Show one task; files nobody fetched yet are made for it, so that their digests are known."""
        try:
            return describe_whole(studio, task_id)
        except KeyError:
            return {"error": "no such task"}, 404

    @app.get("/sandbox/stats")
    def stats() -> ResponseReturnValue:
        return count(studio)


def count(studio: Studio) -> dict[str, int]:
    """Give the statistics: submits accepted, refused and unauthorized, results asked, GETs of files, tasks kept, reports sent."""
    counts = {
        name: studio.tasks.counts[name]
        for name in ("accepted", "refused", "unauthorized", "results_asked", "file_gets")
    }
    kept = list(studio.tasks)
    return counts | {
        "tasks": len(kept),
        "running": sum(task.status == "running" for task in kept),
        "callbacks": sum(len(task.sent) for task in kept),
        "callbacks_due": sum(task.to_send for task in kept),
    }


def describe_all(studio: Studio, webhook: str | None = None) -> list[dict[str, Any]]:
    """Describe every task, oldest first, or only those of one callback URL."""
    return [
        describe(task, studio)
        for task in studio.tasks
        if webhook is None or task.order.webhook == webhook
    ]


def describe_whole(studio: Studio, task_id: str) -> dict[str, Any]:
    """Describe one task with its files made; raises KeyError for an unknown id."""
    task = studio.tasks.get(task_id)
    if task is None:
        raise KeyError(task_id)
    for file in task.files:
        studio.files.open(file).close()
    return describe(task, studio)


def describe(task: Task, studio: Studio) -> dict[str, Any]:
    """Give everything known about a task as JSON; times are seconds since the epoch."""
    return {
        "id": task.id,
        "model": task.order.model,
        "prompt": task.order.prompt,
        "status": task.status,
        "progress": task.progress,
        "reply": task.order.reply,
        "webhook": task.order.webhook,
        "request": task.request,
        "submits": studio.tasks.submits(task),
        "submitted_at": task.submitted_at,
        "finished_at": task.finished_at,
        "results_asked": task.asked,
        "files": [_file(file, studio.files) for file in task.files],
        "callbacks": [vars(sent) for sent in list(task.sent)],
        "callbacks_due": task.to_send,
    }


def _file(file: ResultFile, files: Files) -> dict[str, Any]:
    return {
        "index": file.index,
        "url": files.last_url(file),
        "expires_at": file.expires_at,
        "sha256": file.sha256,
        "size": file.size,
        "content_type": file.content_type,
        "width": file.width,
        "height": file.height,
        "gets": file.gets,
        "downloads": file.downloads,
    }
