"""The progress of a long command: a bar on a terminal's stderr, elsewhere a line now and then."""

import time
from contextlib import ExitStack
from types import TracebackType
from typing import Self

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

from receiver.cli.base import say
from receiver.cli.terminal import bar_shown

# Seconds between two lines where there is no terminal.
LINE_INTERVAL = 30.0
# Seconds of the latest progress from which the remaining time is estimated.
_ESTIMATE_PERIOD = 60.0


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
        self._shown.enter_context(bar_shown(self._bar))
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
            say(f"{done}{f' of {total}' if total is not None else ''} {text}", err=True)
