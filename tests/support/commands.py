"""Commands run inside the tests' process, which saves a second of processor time each.

Use it where the process does not matter; signals, kills, terminals and open file descriptors need
``processes.run`` or ``processes.running``.
"""

import logging
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from unittest import mock

import structlog
from click.testing import CliRunner
from processes import Finished, environment

from receiver.cli import main as receiver
from receiver.telemetry import metric_files
from submitter.cli import main as submitter

_PROGRAMS = {"receiver": receiver, "submitter": submitter}


def invoke(
    command: Sequence[str], environ: Mapping[str, str], *, folder: Path, stdin: str = ""
) -> Finished:
    """Run a command to its end, with this environment and in this folder."""
    program, *arguments = command
    with (
        mock.patch.dict(os.environ, environment(environ), clear=True),
        chdir(folder),
        _process_restored(),
        # The tests' process counts for itself.
        mock.patch.object(metric_files, "share"),
        tempfile.TemporaryFile() as file,  # `submitter batch -` needs a file descriptor
    ):
        file.write(stdin.encode())
        file.seek(0)
        result = CliRunner().invoke(_PROGRAMS[program], arguments, input=file)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Finished(result.exit_code, result.stdout, result.stderr)


@contextmanager
def _process_restored() -> Iterator[None]:
    """Undo what a command changes for its whole process."""
    loggers = [logging.getLogger(name) for name in (None, "receiver", "submitter")]
    handlers, levels = loggers[0].handlers, [logger.level for logger in loggers]
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    umask = os.umask(0o022)
    os.umask(umask)
    try:
        yield
    finally:
        os.umask(umask)
        for number, handler in signals.items():
            signal.signal(number, handler)
        loggers[0].handlers = handlers
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        structlog.reset_defaults()
