"""What happens later: one thread sleeps until the next due action, a few others carry the actions out."""

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_log = logging.getLogger(__name__)


class Schedule:
    """Actions by the time they are due. ``hands`` is how many may run at once; thousands may wait at no cost but memory."""

    def __init__(self, hands: int) -> None:
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._number = (
            itertools.count()
        )  # keeps actions of one instant in their order, and the heap from comparing functions
        self._changed = threading.Condition()
        self._stopping = False
        self._hands = ThreadPoolExecutor(hands, "sandbox-hand")
        self._thread = threading.Thread(target=self._run, name="sandbox-schedule", daemon=True)
        self._thread.start()

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Carry the action out in so many seconds; an exception from it is logged."""
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._number), action))
            if self._due[0][2] is action:
                self._changed.notify()

    def stop(self) -> None:
        """Forget what is not due yet and wait for what is running."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()
        self._hands.shutdown(cancel_futures=True)

    def _run(self) -> None:
        with self._changed:
            while not self._stopping:
                wait = self._due[0][0] - time.monotonic() if self._due else None
                if wait is None or wait > 0:
                    self._changed.wait(wait)
                else:
                    self._hands.submit(_carry_out, heapq.heappop(self._due)[2])


def _carry_out(action: Callable[[], object]) -> None:
    try:
        action()
    except Exception:  # noqa: BLE001 - the thread has more actions to carry out; this one is logged with its traceback
        _log.exception("an action of the sandbox failed")
