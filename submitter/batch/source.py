"""Where the lines of a batch come from: a file that can be read twice, or a stream that is read as it comes."""

import io
import os
import select
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

# Seconds after which a reader that waits for a silent stream looks whether it is still wanted.
_LOOK_EVERY = 0.2


@dataclass(frozen=True, slots=True)
class Source:
    """An open file, and whether it can be read again from its start."""

    file: BinaryIO
    rereadable: bool

    def rewind(self) -> None:
        """Go back to the start, where that can be done."""
        if self.rereadable:
            self.file.seek(0)


@contextmanager
def opened(path: str, stopping: threading.Event, *, twice: bool) -> Iterator[Source]:
    """Open a file, or stdin for ``-``. A stream that is to be read ``twice`` is kept in a temporary file; raise OSError.

    A stream ends early when ``stopping`` is set, so that nobody waits for a line that will not come.
    """
    with ExitStack() as stack:
        if path != "-" and Path(path).is_file():
            yield Source(stack.enter_context(Path(path).open("rb")), rereadable=True)
            return
        if path == "-":
            number = sys.stdin.fileno()
        else:
            number = os.open(path, os.O_RDONLY)
            stack.callback(os.close, number)
        stream = stack.enter_context(io.BufferedReader(_Stream(number, stopping)))
        if not twice:
            yield Source(stream, rereadable=False)
            return
        kept = stack.enter_context(tempfile.TemporaryFile(prefix="batch-"))
        shutil.copyfileobj(stream, kept)
        kept.seek(0)
        yield Source(kept, rereadable=True)


class _Stream(io.RawIOBase):
    """Reads a descriptor, which it does not close, until its end or until it is told to stop."""

    def __init__(self, number: int, stopping: threading.Event) -> None:
        self._number = number
        self._stopping = stopping

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any, /) -> int:
        while not self._stopping.is_set():
            if select.select([self._number], [], [], _LOOK_EVERY)[0]:
                return os.readv(self._number, [room])
        return 0
