"""The input of a batch: a file that can be read twice, or a stream that is read as it arrives."""

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

# Seconds after which a read that waits for a silent stream checks whether it should stop.
_CHECK_EVERY = 0.2


@dataclass(frozen=True, slots=True)
class BatchFile:
    """An open file, and whether it can be read again from its start."""

    file: BinaryIO
    rereadable: bool

    def rewind(self) -> None:
        """Go back to the start, if the source can be read again."""
        if self.rereadable:
            self.file.seek(0)


@contextmanager
def opened(path: str, stopping: threading.Event, *, twice: bool) -> Iterator[BatchFile]:
    """Open a file, or stdin for ``-``; raise OSError if it cannot be opened.

    With ``twice`` a stream is first copied to a temporary file. A stream ends early when
    ``stopping`` is set, so that a worker does not wait for a line that will not come.
    """
    with ExitStack() as stack:
        if path != "-" and Path(path).is_file():
            yield BatchFile(stack.enter_context(Path(path).open("rb")), rereadable=True)
            return
        if path == "-":
            descriptor = sys.stdin.fileno()
        else:
            descriptor = os.open(path, os.O_RDONLY)
            stack.callback(os.close, descriptor)
        stream = stack.enter_context(io.BufferedReader(_Stream(descriptor, stopping)))
        if not twice:
            yield BatchFile(stream, rereadable=False)
            return
        copy = stack.enter_context(tempfile.TemporaryFile(prefix="batch-"))
        shutil.copyfileobj(stream, copy)
        copy.seek(0)
        yield BatchFile(copy, rereadable=True)


class _Stream(io.RawIOBase):
    """Reads a file descriptor until its end or until ``stopping`` is set; does not close it."""

    def __init__(self, descriptor: int, stopping: threading.Event) -> None:
        self._descriptor = descriptor
        self._stopping = stopping

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._stopping.is_set():
            if select.select([self._descriptor], [], [], _CHECK_EVERY)[0]:
                return os.readv(self._descriptor, [buffer])
        return 0
