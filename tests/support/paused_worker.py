"""A worker in a thread that stops at each failpoint, until the test lets it go on or kills it.

Only one of all threads runs at a time, so that an order of steps can be repeated.
"""

import threading
from collections.abc import Callable

from receiver.failpoints import Point

# The transaction is open or its locks are held: a worker can only be killed there.
_COMMITS = {Point.BEFORE_COMMIT, Point.AFTER_COMMIT}
_WITHIN = 60.0


class KilledError(BaseException):
    """Raised at a failpoint where a process would be killed."""


class PausedWorker:
    """Does one piece of work after the other. ``at``: the failpoint where it stands now."""

    def __init__(self) -> None:
        self.at: Point | None = None
        self.kill_at: Point | None = None
        self._killed = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)

    @property
    def is_busy(self) -> bool:
        """Whether it stands in the middle of a piece of work."""
        return self._thread is not None

    def begin(self, work: Callable[[], object], kill_at: Point | None = None) -> None:
        """Work until the first failpoint; with ``kill_at`` die at that one if it is reached."""
        assert not self.is_busy
        self.kill_at, self._killed = kill_at, False
        self._thread = threading.Thread(target=self._run, args=(work,), name="paused worker")
        workers[self._thread] = self
        self._thread.start()
        self._wait()

    def proceed(self, kill_at: Point | None = None) -> None:
        """Go on to the next failpoint."""
        if self.is_busy:
            self.kill_at = kill_at
            self._go.release()
            self._wait()

    def kill(self) -> None:
        """Die at the failpoint where it stands."""
        self._killed = True
        self.proceed()

    def reach(self, point: Point) -> None:
        """Stop at a failpoint, or die there."""
        if point is self.kill_at:
            raise KilledError(point)
        if point in _COMMITS:
            return
        self.at = point
        self._stopped.release()
        self._go.acquire()
        if self._killed:
            raise KilledError(point)

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except KilledError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
            self._error = error
        finally:
            del workers[threading.current_thread()]
            self._thread, self.at = None, None
            self._stopped.release()

    def _wait(self) -> None:
        assert self._stopped.acquire(timeout=_WITHIN), f"the worker hangs after {self.at}"
        if error := self._error:
            self._error = None
            raise error


workers: dict[threading.Thread, PausedWorker] = {}


class Failpoints:
    """Stands for ``failpoints.reached``: stops the workers, and kills the test's thread once."""

    def __init__(self) -> None:
        self.kill_at: Point | None = None

    def __call__(self, point: Point) -> None:
        """See ``failpoints.reached``."""
        if worker := workers.get(threading.current_thread()):
            worker.reach(point)
        elif point is self.kill_at:
            self.kill_at = None
            raise KilledError(point)
