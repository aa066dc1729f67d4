"""The pages under /sandbox, which GRSAI does not have: tasks, files, reports and statistics."""

from typing import Any

from flask import Flask, request
from flask.typing import ResponseReturnValue

from submitter.sandbox.files import Files, ResultFile
from submitter.sandbox.runner import Runner
from submitter.sandbox.tasks import Task

_PAGE = 1000


def add_routes(app: Flask, runner: Runner) -> None:
    """Add /sandbox/tasks, /sandbox/tasks/<id> and /sandbox/stats."""

    @app.get("/sandbox/tasks")
    def tasks() -> ResponseReturnValue:
        """List tasks, oldest first, by ``webhook``; ``limit`` and ``skip`` select a page."""
        chosen = all_tasks(runner, request.args.get("webhook"))
        skip, limit = request.args.get("skip", 0, int), request.args.get("limit", _PAGE, int)
        return {"tasks": chosen[skip : skip + limit], "total": len(chosen)}

    @app.get("/sandbox/tasks/<task_id>")
    def one_task(task_id: str) -> ResponseReturnValue:
        """Show one task; its files are made first, so that their digests are known."""
        try:
            return task_with_files(runner, task_id)
        except KeyError:
            return {"error": "no such task"}, 404

    @app.get("/sandbox/stats")
    def stats() -> ResponseReturnValue:
        return stats_of(runner)


def stats_of(runner: Runner) -> dict[str, int]:
    """Return the counts of submits, reads, downloads, tasks and reports."""
    counts = {
        name: runner.tasks.counts[name]
        for name in ("accepted", "refused", "unauthorized", "results_asked", "file_gets")
    }
    kept = list(runner.tasks)
    return counts | {
        "tasks": len(kept),
        "running": sum(task.status == "running" for task in kept),
        "callbacks": sum(len(task.sent) for task in kept),
        "callbacks_due": sum(task.to_send for task in kept),
    }


def all_tasks(runner: Runner, webhook: str | None = None) -> list[dict[str, Any]]:
    """Return all tasks, or those of one callback URL, oldest first."""
    return [
        _task(task, runner)
        for task in runner.tasks
        if webhook is None or task.request.webhook == webhook
    ]


def task_with_files(runner: Runner, task_id: str) -> dict[str, Any]:
    """Return one task with its files made; raise KeyError for an unknown id."""
    task = runner.tasks.get(task_id)
    if task is None:
        raise KeyError(task_id)
    for file in task.files:
        runner.files.open(file).close()
    return _task(task, runner)


def _task(task: Task, runner: Runner) -> dict[str, Any]:
    """Return a task as JSON; times are seconds since 1970."""
    return {
        "id": task.id,
        "model": task.request.model,
        "prompt": task.request.prompt,
        "status": task.status,
        "progress": task.progress,
        "reply": task.request.reply,
        "webhook": task.request.webhook,
        "request": task.body,
        "field_faults": task.field_faults,
        "submits": runner.tasks.submits(task),
        "submitted_at": task.submitted_at,
        "finished_at": task.finished_at,
        "results_asked": task.reads,
        "files": [_file(file, runner.files) for file in task.files],
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
