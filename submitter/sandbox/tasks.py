"""The accepted tasks of the sandbox: what was asked for, their state, and their reports and reads.

Times are seconds since 1970. The lock of a Task guards its lists and counters; the lock of Tasks
guards the registry.
"""

import threading
import time
import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from submitter.sandbox.files import ResultFile
from submitter.sandbox.request import Reply, TaskRequest

# Characters kept of one value of a body; reference images come as megabytes of base64.
_LONGEST_KEPT = 2000
_MOST_UNFINISHED = 99

ReportKind = Literal["running", "final", "contradiction"]


@dataclass(frozen=True)
class Report:
    """One report to send, and whether it goes to the true URL or to a forged one."""

    kind: ReportKind
    progress: int | None = None
    forged: bool = False


@dataclass(frozen=True)
class SentReport:
    """One attempt to send a report to a webHook.

    ``status`` is the HTTP status of the answer; None if there was none, then ``error`` says why.
    """

    kind: str  # the status in the body: running, succeeded, failed
    url: str
    status: int | None
    error: str
    at: float
    latency: float


@dataclass
class Task:
    """One accepted job. ``body`` is the JSON of its submit, with long values shortened."""

    id: str
    request: TaskRequest
    body: dict[str, Any]
    submitted_at: float
    status: str = "running"
    finished_at: float | None = None
    files: list[ResultFile] = field(default_factory=list)
    sent: list[SentReport] = field(default_factory=list)
    outgoing: deque[Report] = field(default_factory=deque)  # the first is being sent
    to_send: int = 0  # reports still to be sent
    reads: int = 0  # how many times the result was read
    field_faults: list[str] = field(default_factory=list)  # what the vendor would ignore or reject
    finished: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def progress(self) -> int:
        """The progress by the clock, 0 to 100."""
        if self.status == "succeeded":
            return 100
        delay = self.request.script.delay
        share = (time.time() - self.submitted_at) / delay if delay else 0
        return int(min(_MOST_UNFINISHED, 100 * share))

    def count_read(self) -> int:
        """Count one read of the result and return the new number."""
        with self.lock:
            self.reads += 1
            return self.reads

    def note(self, sent: SentReport) -> None:
        """Remember one attempt to send a report."""
        with self.lock:
            self.sent.append(sent)

    def report_done(self) -> None:
        """Count one report less to send, delivered or not."""
        with self.lock:
            self.to_send -= 1


class Tasks:
    """The newest ``keep`` tasks by id; older finished tasks are forgotten."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._tasks: OrderedDict[str, Task] = OrderedDict()
        self._submits: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Task]:
        """Yield the tasks, oldest first."""
        with self._lock:
            return iter(list(self._tasks.values()))

    def get(self, task_id: object) -> Task | None:
        """Return the task with this id, or None."""
        with self._lock:
            return self._tasks.get(task_id) if isinstance(task_id, str) else None

    def count(self, name: str) -> None:
        """Add one to a counter of the statistics."""
        with self._lock:
            self.counts[name] += 1

    def submits(self, task: Task) -> int:
        """Return how many accepted submits had this task's webHook; 1 for a task without one."""
        return self._submits[task.request.webhook] if task.request.webhook else 1

    def add(self, request: TaskRequest, body: dict[str, Any]) -> tuple[Task, list[Task]]:
        """Add a task; return it, and the old tasks that were forgotten to make room."""
        prefix = "14-" if request.newer or request.reply is not Reply.CALLBACK else ""
        kept_body = {key: _shortened(value) for key, value in body.items()}
        task = Task(f"{prefix}{uuid.uuid4()}", request, kept_body, time.time())
        with self._lock:
            self._tasks[task.id] = task
            self.counts["accepted"] += 1
            if request.webhook:
                self._submits[request.webhook] += 1
            return task, self._forget()

    def _forget(self) -> list[Task]:
        """Remove the oldest tasks above the limit, up to the first unfinished one."""
        gone = []
        while (
            len(self._tasks) > self._keep
            and (oldest := next(iter(self._tasks.values()))).finished.is_set()
            and not oldest.to_send
        ):
            gone.append(self._tasks.pop(oldest.id))
            webhook = oldest.request.webhook
            if webhook:
                self._submits[webhook] -= 1
                if not self._submits[webhook]:
                    del self._submits[webhook]
        return gone


def _shortened(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _LONGEST_KEPT:
        return f"{value[:_LONGEST_KEPT]}… ({len(value)} characters)"
    return [_shortened(one) for one in value] if isinstance(value, list) else value
