"""The work itself: a job is accepted, runs for its delay, ends as its script says, and is reported."""

import time
from functools import partial
from typing import Any

from submitter.sandbox import responses
from submitter.sandbox.callbacks import Sender, final_posts, progress_posts
from submitter.sandbox.files import Files, ResultFile
from submitter.sandbox.request import Order
from submitter.sandbox.schedule import Schedule
from submitter.sandbox.tasks import Post, Task, Tasks


class Studio:
    """Carries out jobs; ``hands`` reports may be on their way at once, each for ``timeout`` seconds."""

    def __init__(self, tasks: Tasks, files: Files, hands: int, timeout: float) -> None:
        self.tasks, self.files = tasks, files
        self._schedule = Schedule(hands)
        self._sender = Sender(self._schedule, self._report, hands, timeout)
        self._stopped = False

    def accept(self, order: Order, body: dict[str, Any]) -> Task:
        """Take a job on and start it; with an early callback it has ended and been reported when this returns."""
        task, forgotten = self.tasks.add(order, body)
        for old in forgotten:
            self.files.forget(old.files)
        if order.webhook and order.script.callback.mode == "early":
            self._end(task)
            self._sender.send(task, Post("final"))
            return task
        if order.webhook:
            posts = progress_posts(order.script, quiet=order.quiet)
            task.to_send = len(posts) + len(final_posts(order.script))
            for due, post in posts:
                self._schedule.after(due, partial(self._sender.queue, task, [post]))
        self._schedule.after(order.script.delay, partial(self._finish, task))
        if self._stopped:
            task.finished.set()  # nobody else will
        return task

    def stop(self) -> None:
        """Forget what is to come, wait for reports on their way, and let go whoever waits for a result."""
        self._stopped = True
        self._schedule.stop()
        self._sender.close()
        for task in self.tasks:
            task.finished.set()

    def result(self, task: Task, *, urls: bool | None = None) -> dict[str, Any]:
        """Give the bare task object as it stands; by default with URLs unless the script withholds them."""
        return responses.task_object(
            task,
            self.files,
            urls=task.order.script.result.mode != "no_url" if urls is None else urls,
        )

    def _report(self, task: Task, post: Post) -> dict[str, Any]:
        return responses.task_object(
            task,
            self.files,
            post.report,
            post.progress,
            urls=task.order.script.result.mode != "no_url",
        )

    def _end(self, task: Task) -> None:
        """Give the task its final status and, if it went well, its files, which are made when first needed."""
        order = task.order
        if order.script.fail:
            task.status = "failed"
        else:
            task.files = [
                self._file(order, f"{task.id}/{index}", index) for index in range(order.variants)
            ]
            task.status = "succeeded"
        task.finished_at = time.time()
        task.finished.set()

    def _finish(self, task: Task) -> None:
        self._end(task)
        if not task.order.webhook:
            return
        callback = task.order.script.callback
        together = callback.mode == "duplicate" and callback.together
        send = partial(self._sender.queue, task, final_posts(task.order.script), together=together)
        self._schedule.after(callback.seconds if callback.mode == "late" else 0, send)

    @staticmethod
    def _file(order: Order, seed: str, index: int) -> ResultFile:
        size = order.file_size(seed)
        return ResultFile(
            seed,
            index,
            order.form,
            order.width,
            order.height,
            size,
            order.script.file,
            order.script.result.refresh,
        )
