"""Logging: one line per event, as JSON or, on a terminal, in colours.

Our code logs no tickets or secrets. If a library's message or a traceback contains one, it is
redacted here.
"""

import logging
import os
import select
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor

from receiver.telemetry.printable import printable
from receiver.telemetry.redaction import Redactor

LogFormat = Literal["auto", "json", "console"]

# Seconds that a line waits for the reader of a non-blocking pipe that is full.
_FULL_PIPE_TIMEOUT = 0.2


# Where lines go instead of stderr while a command shows a bar there.
_diverted: list[Callable[[str], object]] = []


@contextmanager
def diverted(write: Callable[[str], object]) -> Iterator[None]:
    """Give the lines of the log to ``write`` instead of stderr, one at a time."""
    _diverted.append(write)
    try:
        yield
    finally:
        _diverted.pop()


class _Handler(logging.StreamHandler[TextIO]):
    """Writes the lines of libraries where ours go."""

    def emit(self, record: logging.LogRecord) -> None:
        if _diverted:
            _diverted[-1](self.format(record))
        else:
            super().emit(record)


class _Output:
    """Writes each line to stderr with one system call.

    structlog's own holds a lock meanwhile, and the threads of a busy process queue for it.
    """

    def __init__(self, *_: object) -> None:
        self._file = sys.stderr

    def msg(self, line: str) -> None:
        """Write a line. One that cannot be written is dropped: the work goes on without its log."""
        if _diverted:
            _diverted[-1](line)
            return
        try:
            number = self._file.fileno()
        except (OSError, ValueError):  # not a real file: a test reads it
            self._file.write(line + "\n")
            return
        with suppress(OSError):  # the pipe has no reader any more, or the disk is full
            _write(number, (line + "\n").encode("utf-8", "backslashreplace"))

    log = debug = info = warning = error = critical = exception = msg


def _write(number: int, rest: bytes) -> None:
    """Write to a descriptor, which another process may have made non-blocking."""
    while rest:
        try:
            rest = rest[os.write(number, rest) :]
        except BlockingIOError:  # the pipe is full
            if not select.select([], [number], [], _FULL_PIPE_TIMEOUT)[1]:
                return


class _RedactingFormatter(structlog.stdlib.ProcessorFormatter):
    """Formats a line, with its traceback, and redacts secrets in it."""

    redact = Redactor()
    as_json = False

    def format(self, record: logging.LogRecord) -> str:
        return _final(self.redact(super().format(record)), self.as_json)


def configure(level: str, form: LogFormat, secrets: Iterable[str]) -> None:
    """Set up structlog, and the logging of libraries, for this process. Lines go to stderr.

    ``level`` and ``form`` are the settings LOG_LEVEL and LOG_FORMAT; ``secrets`` are redacted.
    """
    as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    redact = Redactor(secrets)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer = _json_renderer() if as_json else _console_renderer()
    # Our lines go straight to stderr: a detour through the logging package costs a callback more
    # than everything else that it does outside the database.
    structlog.configure(
        processors=[
            *shared,
            *renderer,
            lambda _logger, _method, line: _final(redact(str(line)), as_json),
        ],
        logger_factory=_Output,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
    )
    formatter = _RedactingFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
    )
    formatter.redact, formatter.as_json = redact, as_json
    _configure_libraries(formatter)


def _json_renderer() -> list[Processor]:
    return [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(ensure_ascii=False),
    ]


def _console_renderer() -> list[Processor]:
    # Plain tracebacks: the fancy ones print local variables, and a secret may be among them.
    return [
        _as_plain_values,
        structlog.dev.ConsoleRenderer(exception_formatter=_indented_traceback),
    ]


def _configure_libraries(formatter: logging.Formatter) -> None:
    """Write the lines of libraries, which log only problems, in the same form as ours."""
    output = _Handler(sys.stderr)
    output.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [output]
    root.setLevel(logging.WARNING)


def _final(line: str, as_json: bool) -> str:  # noqa: FBT001 - the renderer's only choice
    """Return a line as it is written; on a terminal its values have been escaped before."""
    return printable(line, as_json=True) if as_json else line


def _as_plain_values(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Replace enum members by their values, and what could harm a terminal in texts.

    The console would print ``<JobState.FAILED: …>``, and texts without spaces as they are.
    """
    plain = {
        name: value.value if isinstance(value, Enum) else value for name, value in event.items()
    }
    return {
        name: printable(value) if isinstance(value, str) else value for name, value in plain.items()
    }


def _indented_traceback(output: TextIO, error: ExcInfo) -> None:
    """Write a traceback. Each line is indented, so that none of them looks like a line of ours."""
    text = "".join(traceback.format_exception(*error))
    output.write("\n" + "\n".join(f"    {printable(line)}" for line in text.split("\n")))
