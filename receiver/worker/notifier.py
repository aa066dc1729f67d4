"""Notifications between processes of one machine, through a named pipe in DATA_DIR.

If no process listens, nothing happens.
"""

import os
import select
import threading
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

from receiver.data_dir import open_own

# Names every work queue.
ALL = "*"
# Bytes that a pipe holds at most. It may be a single page of 4,096 bytes if the user has many
# pipes.
_CAPACITY = 65536
# Bytes of the longest message. A pipe that has no room for one contains more bytes than that.
_LONGEST = 2048


class Notifier:
    """Notifies the worker through a named pipe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pipe: int | None = None  # kept open: opening it costs more than a notification
        self._lock = threading.Lock()  # no thread may write to a closed pipe's number
        self._names = SimpleQueue[str]()  # not sent yet
        self.is_listening = False  # whether this process is the worker and has opened its end

    def notify(self, name: str = ALL, /) -> None:
        """Notify the worker of a work queue if it listens; never blocks.

        Threads that notify at the same time need one write, made after the last call began.
        """
        self._names.put(name)
        while not self._names.empty() and self._lock.acquire(blocking=False):
            try:
                self._write(self._take())
            finally:
                self._lock.release()

    def _take(self) -> set[str]:
        names = set()
        with suppress(Empty):
            while True:
                names.add(self._names.get_nowait())
        return names

    def _write(self, names: set[str]) -> None:
        try:
            if self._pipe is None:
                self._pipe = open_own(self._path, os.O_WRONLY | os.O_NONBLOCK)
            message = "".join(f"{name}\n" for name in names).encode()
            os.write(self._pipe, message if len(message) <= _LONGEST else f"{ALL}\n".encode())
        except BlockingIOError:
            pass  # the pipe is full: the worker has enough notifications
        except OSError:
            self._close()  # no pipe or no listener: polling will find the work

    def close(self) -> None:
        """Close our end of the pipe; a later notification opens it again."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            os.close(pipe)

    def listen(self) -> "Listener":
        """Open the worker's end of the pipe."""
        if self._path.is_symlink() or not self._path.is_fifo():
            # Missing, or a plain file from a restored backup, which would always be readable.
            self._path.unlink(missing_ok=True)
            with suppress(FileExistsError):
                os.mkfifo(self._path, 0o600)
        self.is_listening = True
        # Opened for writing too: a pipe whose last writer has closed it is readable all the time.
        return Listener(open_own(self._path, os.O_RDWR | os.O_NONBLOCK))


class Listener:
    """The worker's end of a pipe; a context manager."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def wait(self, seconds: float) -> set[str]:
        """Return the names of all notified work queues as soon as there are any.

        Return none after ``seconds``.
        """
        if select.select([self._pipe], [], [], seconds)[0]:
            with suppress(BlockingIOError):
                received = os.read(self._pipe, _CAPACITY)
                if len(received) > _LONGEST:  # the pipe may have been full, and names lost
                    return {ALL}
                return set(received.decode().splitlines())
        return set()

    def __enter__(self) -> Self:
        """Return this listener."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the pipe."""
        os.close(self._pipe)
