"""The tasks the sandbox has taken on: what was asked, how far each is, and what was sent and read about it.

Times are seconds since the epoch. A Task's own lock guards the lists and counters in it; Tasks' lock guards the registry.
"""

import threading
import time
import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from submitter.sandbox.files import ResultFile
from submitter.sandbox.request import Order, Reply

_LONGEST_KEPT = (
    2000  # characters of one value of a kept body; reference images come as megabytes of base64
)
_MOST_UNFINISHED = 99

Report = Literal["running", "final", "contradiction"]


@dataclass(frozen=True)
class Post:
    """One report to be sent: what it says, and whether to the true URL or to a forged one."""

    report: Report
    progress: int | None = None
    forged: bool = False


@dataclass(frozen=True)
class Sent:
    """One attempt to report to a webHook: ``status`` is the HTTP status of its answer or None, then ``error`` says why."""

    kind: str  # what the body said: running, succeeded, failed
    url: str
    status: int | None
    error: str
    at: float
    latency: float


@dataclass
class Task:
    """One accepted job."""

    id: str
    order: Order
    request: dict[str, Any]
    submitted_at: float
    status: str = "running"
    finished_at: float | None = None
    files: list[ResultFile] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    outgoing: deque[Post] = field(default_factory=deque)  # the first is being sent
    to_send: int = 0  # reports still to be sent
    asked: int = 0  # readings of the result
    finished: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def progress(self) -> int:
        """How far the work is, 0 to 100, by the clock."""
        if self.status == "succeeded":
            return 100
        share = (
            (time.time() - self.submitted_at) / self.order.script.delay
            if self.order.script.delay
            else 0
        )
        return int(min(_MOST_UNFINISHED, 100 * share))

    def count_reading(self) -> int:
        """Count one reading of the result and give how many there were with it."""
        with self.lock:
            self.asked += 1
            return self.asked

    def note(self, sent: Sent) -> None:
        """Remember one attempt to report."""
        with self.lock:
            self.sent.append(sent)

    def settle(self) -> None:
        """Count one report as done with, delivered or not."""
        with self.lock:
            self.to_send -= 1


class Tasks:
    """The newest ``keep`` tasks by id; older finished ones are forgotten, as an id's life at GRSAI is unknown too."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._tasks: OrderedDict[str, Task] = OrderedDict()
        self._submits: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Task]:
        """Go through the tasks, oldest first."""
        with self._lock:
            return iter(list(self._tasks.values()))

    def get(self, task_id: object) -> Task | None:
        """Give the task of this id, or None."""
        with self._lock:
            return self._tasks.get(task_id) if isinstance(task_id, str) else None

    def count(self, what: str) -> None:
        """Count one event of the statistics."""
        with self._lock:
            self.counts[what] += 1

    def submits(self, task: Task) -> int:
        """Say how many accepted submits named this task's webHook; without one, 1."""
        return self._submits[task.order.webhook] if task.order.webhook else 1

    def add(self, order: Order, body: dict[str, Any]) -> tuple[Task, list[Task]]:
        """Take on a job: give its task, and the tasks that had to be forgotten for it."""
        number = "14-" if order.newer or order.reply is not Reply.CALLBACK else ""
        task = Task(
            f"{number}{uuid.uuid4()}",
            order,
            {key: _clipped(value) for key, value in body.items()},
            time.time(),
        )
        with self._lock:
            self._tasks[task.id] = task
            self.counts["accepted"] += 1
            if order.webhook:
                self._submits[order.webhook] += 1
            return task, self._forget()

    def _forget(self) -> list[Task]:
        """Drop the oldest tasks above the limit; an unfinished one at the head holds the others back."""
        gone = []
        while (
            len(self._tasks) > self._keep
            and (oldest := next(iter(self._tasks.values()))).finished.is_set()
            and not oldest.to_send
        ):
            gone.append(self._tasks.pop(oldest.id))
            webhook = oldest.order.webhook
            if webhook:
                self._submits[webhook] -= 1
                if not self._submits[webhook]:
                    del self._submits[webhook]
        return gone


def _clipped(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _LONGEST_KEPT:
        return f"{value[:_LONGEST_KEPT]}… ({len(value)} characters)"
    return [_clipped(one) for one in value] if isinstance(value, list) else value
