"""The log never breaks the work: a line that cannot be written is dropped."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TextIO

import pytest
import structlog

from receiver.telemetry import logs

LONG = "x" * 10_000


def without_a_reader() -> int:
    """Return the end of a pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def on_a_full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


@pytest.fixture
def stderr_is(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Return a function that makes a descriptor stderr until the test ends."""
    files: list[TextIO] = []

    def replace(number: int) -> None:
        files.append(os.fdopen(number, "w"))
        monkeypatch.setattr("sys.stderr", files[-1])
        logs.configure("INFO", "json", ())

    yield replace
    structlog.reset_defaults()
    for file in files:
        with suppress(OSError):
            file.close()


@pytest.mark.parametrize("make", [without_a_reader, on_a_full_disk])
def test_a_line_that_cannot_be_written_is_no_error(
    stderr_is: Callable[[int], None], make: Callable[[], int]
) -> None:
    stderr_is(make())
    structlog.get_logger("test").info(LONG)


def test_a_line_for_a_full_pipe_is_dropped_and_a_later_one_is_written(
    stderr_is: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_FULL_PIPE_TIMEOUT", 0.01)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)  # as another process may have left it
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"-" * 4096)
    stderr_is(writer)
    structlog.get_logger("test").info("dropped")
    os.read(reader, 65536)
    structlog.get_logger("test").info("written")
    said = os.read(reader, 65536)
    os.close(reader)
    assert b"written" in said
    assert b"dropped" not in said
