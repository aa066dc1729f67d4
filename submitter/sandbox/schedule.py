"""Delayed actions: one thread waits until the next action is due, a thread pool runs them."""

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_log = logging.getLogger(__name__)


class Schedule:
    """Actions by due time; at most ``threads`` run in parallel, thousands may wait."""

    def __init__(self, threads: int) -> None:
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        # Keeps actions due at the same time in order, and the heap from comparing functions.
        self._number = itertools.count()
        self._changed = threading.Condition()
        self._stopping = False
        self._pool = ThreadPoolExecutor(threads, "sandbox-worker")
        self._thread = threading.Thread(target=self._run, name="sandbox-schedule", daemon=True)
        self._thread.start()

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Run the action after ``seconds``; an exception from it is logged."""
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._number), action))
            if self._due[0][2] is action:
                self._changed.notify()

    def stop(self) -> None:
        """Drop the actions that are not due yet and wait for those that run."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()
        self._pool.shutdown(cancel_futures=True)

    def _run(self) -> None:
        with self._changed:
            while not self._stopping:
                wait = self._due[0][0] - time.monotonic() if self._due else None
                if wait is None or wait > 0:
                    self._changed.wait(wait)
                else:
                    self._pool.submit(_run_action, heapq.heappop(self._due)[2])


def _run_action(action: Callable[[], object]) -> None:
    try:
        action()
    except Exception:  # noqa: BLE001 - the thread has more actions to run; the traceback is logged
        _log.exception("sandbox action failed")
