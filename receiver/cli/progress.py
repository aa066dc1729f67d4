"""The progress of a long command: a bar on a terminal's stderr, elsewhere a line now and then."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from receiver.cli.base import printable
from receiver.telemetry import logs

# Seconds between two lines where there is no terminal.
LINE_INTERVAL = 30.0
# Seconds of the latest progress from which the remaining time is estimated.
_ESTIMATE_PERIOD = 60.0


# The consoles that show a bar now; a process has one at a time.
_consoles: list[Console] = []


def say(text: str) -> None:
    """Print a message to the user on stderr, with control characters made visible.

    Where a bar is shown, the message comes above it.
    """
    if _consoles:
        _consoles[-1].print(Text(printable(text)), soft_wrap=True)
    else:
        click.echo(printable(text), err=True)


@contextmanager
def shown(bar: Progress) -> Iterator[None]:
    """Show a bar on stderr; messages of ``say`` and lines of the log come above it."""
    if bar.disable:
        yield
        return
    with bar, logs.diverted(partial(_print_line, bar.console)):
        _consoles.append(bar.console)
        try:
            yield
        finally:
            _consoles.pop()


def _print_line(console: Console, line: str) -> None:
    """Print a line of the log above the bar, with its own colours."""
    console.print(Text.from_ansi(line), soft_wrap=True)


class ProgressBar:
    """A context manager that shows progress on stderr; stdout is free for results afterwards."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (
            SpinnerColumn(),
            BarColumn(20),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._as_lines = not console.is_terminal
        self._bar = Progress(
            *columns,
            console=console,
            transient=True,
            redirect_stdout=False,
            speed_estimate_period=_ESTIMATE_PERIOD,
            disable=self._as_lines,
        )
        self._shown = ExitStack()
        self._total: int | None = None
        self._task = self._bar.add_task("", total=None)
        self._next_line = time.monotonic() + LINE_INTERVAL

    def __enter__(self) -> Self:
        """Show the bar."""
        self._shown.enter_context(shown(self._bar))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the bar."""
        self._shown.close()

    def show(self, text: str, done: int, total: int | None = None) -> None:
        """Show how much is done, of ``total`` if that is known, and a text about it."""
        if total != self._total:  # rich cannot make a total unknown again
            self._bar.remove_task(self._task)
            self._task, self._total = self._bar.add_task("", total=total), total
        self._bar.update(self._task, completed=done, description=text)
        if self._as_lines and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_INTERVAL
            click.echo(f"{done}{f' of {total}' if total is not None else ''} {text}", err=True)
