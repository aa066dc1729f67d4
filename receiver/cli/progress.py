"""How far a long command is: a bar on a terminal's stderr, elsewhere a line now and then."""

import time
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

# Seconds between two lines where there is no terminal.
LINE_EVERY = 30.0
# Seconds over which the time to go is reckoned.
_RECKONED_OVER = 60.0


class Meter:
    """Shows progress while it is entered. stdout is left alone: what was found is printed when the bar is gone."""

    def __init__(self) -> None:
        screen = Console(stderr=True)
        columns = (
            SpinnerColumn(),
            BarColumn(20),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._plain = not screen.is_terminal
        self._bar = Progress(
            *columns,
            console=screen,
            transient=True,
            redirect_stdout=False,
            speed_estimate_period=_RECKONED_OVER,
            disable=self._plain,
        )
        self._total: int | None = None
        self._task = self._bar.add_task("", total=None)
        self._next_line = time.monotonic() + LINE_EVERY

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take it away."""
        self._bar.stop()

    def show(self, text: str, done: int, total: int | None = None) -> None:
        """Say how much is done, of how much if that is known, and what came of it."""
        if total != self._total:  # rich cannot make a total unknown again
            self._bar.remove_task(self._task)
            self._task, self._total = self._bar.add_task("", total=total), total
        self._bar.update(self._task, completed=done, description=text)
        if self._plain and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY
            click.echo(f"{done}{f' of {total}' if total is not None else ''} {text}", err=True)
