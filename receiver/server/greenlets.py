"""Requests that wait only for the ledger, handled by the main loop itself.

Threads that each handle a callback compete for Python's interpreter lock, which costs as much as
their work. So the one thread of the main loop handles these requests, each in a greenlet: a
function that can be suspended. It is suspended while it waits for its commit. One more thread
commits for all that wait.
"""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

import structlog
from greenlet import getcurrent, greenlet  # type: ignore[import-untyped]  # the package has no types

from receiver.errors import LedgerError
from receiver.ledger.group_commit import WRITE_TIMEOUT
from receiver.ledger.waiting import SUSPENDER, ThreadSignal

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Threads for transactions outside the group commit. They are not the threads of requests, which
# must stay free if the ledger hangs. They are fewer than a process has connections to PostgreSQL,
# so that commits can go on.
LEDGER_THREADS = 8
# Seconds that the main loop waits for a commit before it goes on with other clients. Most commits
# take less, and are faster if they need not compete with the loop for the interpreter lock.
COMMIT_WAIT = 0.005


class GreenletSignal:
    """Resumes one greenlet; see ``ledger.waiting.Signal``. ``deadline`` is in monotonic seconds."""

    __slots__ = ("_greenlets", "deadline", "is_notified", "owner")

    def __init__(self, greenlets: "Greenlets") -> None:
        self._greenlets = greenlets
        self.owner = getcurrent()
        self.is_notified = False
        self.deadline = 0.0

    def lead(self, commit: Callable[[], None]) -> None:
        """Have ``commit`` called in the thread that commits, when all greenlets are suspended."""
        self._greenlets.add_commit(commit)

    def notify(self) -> None:
        """Have the greenlet resumed by the main loop; called in any thread."""
        self.is_notified = True
        self._greenlets.resume_soon(self)

    def wait(self, seconds: float) -> bool:
        """Suspend the greenlet until notified; return False after ``seconds``."""
        if not self.is_notified:
            self.deadline = time.monotonic() + seconds
            self._greenlets.suspend(self)
        notified, self.is_notified = self.is_notified, False
        return notified


class Greenlets:
    """The greenlets of a main loop. All but ``resume_soon`` is called in the loop's thread.

    ``defer`` makes the main loop call a function soon.
    """

    def __init__(self, defer: Callable[[Callable[[], None]], None]) -> None:
        self._defer = defer
        self._executor = ThreadPoolExecutor(LEDGER_THREADS, "ledger")
        self._context = Context()
        self._context.run(SUSPENDER.set, self)
        self._done: dict[greenlet, Callable[[Any], None]] = {}
        self._suspended: dict[GreenletSignal, None] = {}
        self._notified: deque[GreenletSignal] = deque()
        self._is_deferred = False
        self._commits: list[Callable[[], None]] = []
        self._committing: SimpleQueue[list[Callable[[], None]]] = SimpleQueue()
        self._committed = ThreadSignal()
        self._is_late = False  # the last commit was slow: do not wait for the next one
        self._committer: Thread | None = None
        self._is_refused = False  # the start of that thread, by the system

    # Called by the main loop.

    def start(self, function: Callable[[], T], done: Callable[[T], None]) -> None:
        """Run ``function`` until it is suspended or returns; ``done`` gets what it returns."""
        new = greenlet(function)
        new.gr_context = self._context.copy()
        self._done[new] = done
        self._switch(new)

    def commit(self) -> None:
        """Have a commit made for the greenlets that wait for one; wait a moment, and resume them.

        Do not wait while the previous commit is running: otherwise a ledger that hangs would slow
        down every round.
        """
        if not self._commits:
            return
        if self._committer is None and not self._start_committer():
            return  # the next round tries again; a greenlet that waits too long gets a LedgerError
        self._is_deferred = True  # greenlets that are notified meanwhile are resumed below
        self._begin_commits()
        self._is_late = not self._committed.wait(0 if self._is_late else COMMIT_WAIT)
        self._resume_notified()
        self._begin_commits()  # for greenlets that write again, even if the loop is idle

    def _start_committer(self) -> bool:
        """Start the thread that commits: a thread from before a fork would be lost.

        Return False if the system cannot start a thread now.
        """
        thread = Thread(target=self._commit_for_ever, name="commit", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            if not self._is_refused:
                log.error("commits wait, no thread can be started", error=str(error))  # noqa: TRY400 - the text is enough
            self._is_refused = True
            return False
        self._committer, self._is_refused = thread, False
        return True

    def _begin_commits(self) -> None:
        if self._commits:
            commits, self._commits = self._commits, []
            self._committing.put(commits)

    def end_late(self) -> None:
        """Resume those whose deadline has passed; their ``wait`` returns False."""
        now = time.monotonic()
        for signal in [one for one in self._suspended if one.deadline <= now]:
            self._resume(signal)

    @property
    def are_waiting(self) -> bool:
        """Whether any greenlet is suspended."""
        return bool(self._suspended)

    # Called by greenlets: ``ledger.waiting.Suspender``, and by their signals.

    def signal(self) -> GreenletSignal:
        """Return a signal for the greenlet that calls."""
        return GreenletSignal(self)

    def call(self, function: Callable[[], T]) -> T:
        """Call ``function`` in a thread; return what it returns, or raise what it raises.

        Raise LedgerError if no thread began with it within ``WRITE_TIMEOUT`` seconds.
        """
        signal = self.signal()
        context = copy_context()  # its log lines have the id of the request
        context.run(SUSPENDER.set, None)
        future = self._executor.submit(context.run, function)
        future.add_done_callback(lambda _: signal.notify())
        while not future.done():
            if not signal.wait(WRITE_TIMEOUT) and future.cancel():
                raise LedgerError(f"the ledger was not free for {WRITE_TIMEOUT:.0f} s")
        return future.result()

    def add_commit(self, commit: Callable[[], None]) -> None:
        """Add what the thread that commits calls next."""
        self._commits.append(commit)

    def suspend(self, signal: GreenletSignal) -> None:
        """Return to the main loop until the signal is notified or late."""
        self._suspended[signal] = None
        signal.owner.parent.switch()

    # Resuming.

    def resume_soon(self, signal: GreenletSignal) -> None:
        """Have the main loop resume a greenlet; called in any thread."""
        self._notified.append(signal)
        if not self._is_deferred:
            self._is_deferred = True
            self._defer(self._resume_notified)

    def _resume_notified(self) -> None:
        self._is_deferred = False  # done first: later notifications cause another call
        for _ in range(len(self._notified)):
            signal = self._notified.popleft()
            if signal.is_notified:  # false if two notifications came before it was resumed
                self._resume(signal)

    def _resume(self, signal: GreenletSignal) -> None:
        if signal in self._suspended:
            del self._suspended[signal]
            self._switch(signal.owner)

    def _switch(self, to: greenlet) -> None:
        value = to.switch()
        if to.dead:
            self._done.pop(to)(value)

    # The thread that commits.

    def _commit_for_ever(self) -> None:
        while True:
            for commit in self._committing.get():
                try:
                    commit()
                except Exception:  # the callers have a timeout; later callers need this thread
                    log.exception("commit failed")
            self._committed.notify()
