"""Runs tasks: each is accepted, runs for its delay, ends as its script says, and is reported."""

import time
from functools import partial
from typing import Any

from submitter.sandbox import responses
from submitter.sandbox.callbacks import CallbackSender, final_reports, progress_reports
from submitter.sandbox.files import Files, ResultFile
from submitter.sandbox.request import TaskRequest
from submitter.sandbox.schedule import Schedule
from submitter.sandbox.spelling import spelled
from submitter.sandbox.tasks import Report, Task, Tasks


class Runner:
    """Runs tasks; ``threads`` reports are sent in parallel, each for up to ``timeout`` seconds."""

    def __init__(self, tasks: Tasks, files: Files, threads: int, timeout: float) -> None:
        self.tasks, self.files = tasks, files
        self._schedule = Schedule(threads)
        self._callbacks = CallbackSender(self._schedule, self._report, threads, timeout)
        self._stopped = False

    def accept(self, request: TaskRequest, body: dict[str, Any]) -> Task:
        """Accept and start a task.

        With an early callback, the task has ended and was reported when this returns.
        """
        task, forgotten = self.tasks.add(request, body)
        for old in forgotten:
            self.files.forget(old.files)
        if request.webhook and request.script.callback.mode == "early":
            self._end(task)
            self._callbacks.send(task, Report("final"))
            return task
        if request.webhook:
            reports = progress_reports(request.script, no_progress=request.no_progress)
            task.to_send = len(reports) + len(final_reports(request.script))
            for due, report in reports:
                self._schedule.after(due, partial(self._callbacks.queue, task, [report]))
        self._schedule.after(request.script.delay, partial(self._finish, task))
        if self._stopped:
            task.finished.set()  # the schedule runs no more, so nothing else will set it
        return task

    def stop(self) -> None:
        """Drop what is scheduled, wait for reports in flight, and release waiting requests."""
        self._stopped = True
        self._schedule.stop()
        self._callbacks.close()
        for task in self.tasks:
            task.finished.set()

    def result(self, task: Task, *, urls: bool | None = None) -> dict[str, Any]:
        """Return the current task object; by default with URLs unless the script withholds them."""
        if urls is None:
            urls = _has_urls(task)
        return responses.task_object(task, self.files, urls=urls)

    def spelled(
        self, task: Task, body: dict[str, Any], *, in_stream: bool = False
    ) -> tuple[bytes, dict[str, str]]:
        """Return a task object, bare or in its envelope, as the task's script spells it."""

        def picture(index: int) -> bytes:
            with self.files.open(task.files[index]) as file:
                return file.read()

        return spelled(body, task.request.script.report, picture, in_stream=in_stream)

    def _report(self, task: Task, report: Report) -> tuple[str, bytes, dict[str, str]]:
        """Return the status that a report tells, its body and its headers."""
        if task.request.stand_in:
            return report.kind, *task.request.stand_in.callback(task, self.files, report.kind)
        body = responses.task_object(
            task, self.files, report.kind, report.progress, urls=_has_urls(task)
        )
        return str(body["status"]), *self.spelled(task, body)

    def _end(self, task: Task) -> None:
        """Set the final status and, after a success, the files, which are made when needed."""
        request = task.request
        if request.script.fail:
            task.status = "failed"
        else:
            task.files = [
                _result_file(request, f"{task.id}/{index}", index)
                for index in range(request.variants)
            ]
            task.status = "succeeded"
            if request.stand_in:  # its URLs are valid from now on, whenever they are requested
                for file in task.files:
                    self.files.url(file)
        task.finished_at = time.time()
        task.finished.set()

    def _finish(self, task: Task) -> None:
        self._end(task)
        if not task.request.webhook:
            return
        callback = task.request.script.callback
        together = callback.mode == "duplicate" and callback.together
        reports = final_reports(task.request.script)
        send = partial(self._callbacks.queue, task, reports, together=together)
        self._schedule.after(callback.seconds if callback.mode == "late" else 0, send)


def _has_urls(task: Task) -> bool:
    return task.request.script.result.mode != "no_url"


def _result_file(request: TaskRequest, seed: str, index: int) -> ResultFile:
    return ResultFile(
        seed,
        index,
        request.form,
        request.width,
        request.height,
        request.file_size(seed),
        request.script.file,
        request.script.result.refresh and request.stand_in is None,
        request.stand_in.lifetime if request.stand_in else None,
    )
