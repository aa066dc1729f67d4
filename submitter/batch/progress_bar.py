"""What a batch prints on stderr: a progress bar with states and remaining time, and a summary."""

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

from receiver.cli import base
from receiver.cli.terminal import bar_shown
from receiver.model import FINAL_STATES, JobState
from submitter.batch.job_table import JobTable
from submitter.batch.run import Batch
from submitter.submit import Transport

# Jobs without pictures that are printed one by one; the report has all.
_MOST_SHOWN = 20
# Seconds over which the speed is measured for the remaining time; one job takes a minute or two.
_SPEED_OVER = 300.0


class BatchProgressBar:
    """The progress bar; a context manager. ``total`` is None until the number of lines is known."""

    def __init__(self, total: int | None) -> None:
        columns = (
            SpinnerColumn(),
            BarColumn(20),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        console = Console(stderr=True)
        self._progress = Progress(
            *columns,
            console=console,
            transient=True,
            speed_estimate_period=_SPEED_OVER,
            disable=not console.is_terminal,
        )
        self._shown = ExitStack()
        self._bar = self._progress.add_task("", total=total)
        self.total = total

    def __enter__(self) -> Self:
        """Show the bar."""
        self._shown.enter_context(bar_shown(self._progress))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the bar."""
        self._shown.close()

    def show(self, table: JobTable, bad: int) -> None:
        """Show the states of the jobs."""
        counts = table.counts()
        final = sum(counts[state] for state in FINAL_STATES) + bad
        self._progress.update(
            self._bar, completed=final, total=self.total, description=_states(table, bad)
        )


def say(text: str) -> None:
    """Print a message to the user on stderr, with control characters made visible."""
    base.say(text, err=True)


def print_summary(batch: Batch, jobs: Transport, name: str, *, err: bool) -> None:
    """Print the lines without pictures and the number of jobs in each state.

    The last line goes to stdout, or with ``err`` to stderr, because stdout has the report.
    """
    rows = list(batch.table.without_pictures())
    for row in rows[:_MOST_SHOWN]:
        for job in jobs.named([batch.table.ref(row)]).values():
            result = " ".join(filter(None, [job.state, job.reason, job.message]))
            say(f"line {batch.table.number(row)}: {job.ref} {result}")
    if len(rows) > _MOST_SHOWN:
        say(f"… and {len(rows) - _MOST_SHOWN} more: --report FILE has them all")
    if batch.submitted_before:
        say(
            f"{batch.submitted_before} lines were submitted before, under the name {name!r} "
            "or their own key: nothing was posted for them"
        )
    total, bad = len(batch.table) + len(batch.bad), len(batch.bad)
    base.say(f"{total} lines: {_states(batch.table, bad) or 'nothing to do'}", err=err)


def _states(table: JobTable, bad: int) -> str:
    counts = [(table.counts()[state], state.value) for state in JobState]
    return ", ".join(f"{number} {word}" for number, word in [*counts, (bad, "bad")] if number)
