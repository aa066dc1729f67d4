"""The answer by stream: server-sent events of bare task objects, with the ways in which such a stream goes wrong."""

import json
import threading
from collections.abc import Iterator
from typing import Any

from submitter.sandbox import responses
from submitter.sandbox.runner import Studio
from submitter.sandbox.tasks import Task


def events(task: Task, studio: Studio, stopping: threading.Event) -> Iterator[bytes]:
    """Give the stream's pieces while the task runs; ends early when the sandbox stops."""
    stream, script = task.order.script.stream, task.order.script
    yield _event(responses.task_object(task, studio.files, "running", 0))
    if stream.mode == "hang":
        stopping.wait(stream.seconds)
        return
    parts = script.progress + 1
    for part in range(1, parts):
        if task.finished.wait(script.delay / parts):
            break
        yield _event(responses.task_object(task, studio.files, "running", 100 * part // parts))
    if stream.mode == "cut":
        return
    task.finished.wait()
    if task.status == "running":  # the sandbox stops
        return
    yield _event(studio.result(task))
    if stream.mode != "no_done":
        yield b"data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"
