"""The bell between processes of one machine: a named pipe in DATA_DIR. Nobody there to hear it is no error."""

import os
import select
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self


class Notifier:
    """Rings a pipe that the worker listens on."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def notify(self) -> None:
        """Wake the worker, if one listens; never blocks."""
        with suppress(OSError):  # no pipe or no listener: the sweep will find the work
            pipe = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
            try:
                os.write(pipe, b"!")
            finally:
                os.close(pipe)

    def listen(self) -> "Listener":
        """Open the worker's end."""
        if not self._path.is_fifo():
            # Nothing yet, or what a restored backup made of it; read as a file it would seem to ring for ever.
            self._path.unlink(missing_ok=True)
            with suppress(FileExistsError):
                os.mkfifo(self._path, 0o600)
        # Opened for writing too: a pipe whose last writer leaves would be "readable" for ever.
        return Listener(os.open(self._path, os.O_RDWR | os.O_NONBLOCK))


class Listener:
    """The worker's end of the bell; a context manager."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def wait(self, seconds: float) -> None:
        """Return when the bell has rung, or after ``seconds``; all the rings so far count as one."""
        if select.select([self._pipe], [], [], seconds)[0]:
            with suppress(BlockingIOError):
                os.read(self._pipe, 65536)

    def __enter__(self) -> Self:
        """Listen."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the pipe."""
        os.close(self._pipe)
