"""What a batch shows: a bar with states and the time to go, on stderr, and at the end what came of it."""

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

from receiver.cli.base import plain
from receiver.ledger.queries.jobs import JobQueries
from receiver.model import FINAL_STATES, JobState
from submitter.batch.job_table import Roll
from submitter.batch.run import Batch

# Lost jobs that are told one by one; the report has all.
_MOST_TOLD = 20
# Seconds over which the time to go is reckoned; a job alone takes a minute or two.
_RECKONED_OVER = 300.0


class Screen:
    """The progress bar; a context manager. ``total`` is None until the number of lines is known."""

    def __init__(self, total: int | None) -> None:
        columns = (
            SpinnerColumn(),
            BarColumn(),
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
            speed_estimate_period=_RECKONED_OVER,
            disable=not console.is_terminal,
        )
        self._bar = self._progress.add_task("", total=total)
        self.total = total

    def __enter__(self) -> Self:
        """Show the bar."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take it away."""
        self._progress.stop()

    def show(self, roll: Roll, bad: int) -> None:
        """Show how the jobs stand."""
        counts = roll.counts()
        final = sum(counts[state] for state in FINAL_STATES) + bad
        self._progress.update(
            self._bar, completed=final, total=self.total, description=_states(roll, bad)
        )


def tell(text: str) -> None:
    """Say something to the person at the terminal."""
    click.echo(plain(text), err=True)


def tell_end(batch: Batch, queries: JobQueries, name: str, *, err: bool) -> None:
    """Say which lines got no picture and what became of all; on stdout unless that is for the report."""
    lost = list(batch.roll.lost())
    for place in lost[:_MOST_TOLD]:
        for job in queries.jobs_named([batch.roll.ref(place)]):
            what = " ".join(filter(None, [job.state, job.reason, job.message]))
            tell(f"line {batch.roll.number(place)}: {job.ref} {what}")
    if len(lost) > _MOST_TOLD:
        tell(f"… and {len(lost) - _MOST_TOLD} more: --report FILE has them all")
    if found := len(batch.found):
        tell(
            f"{found} lines were submitted before, under the name {name!r} or their own key: nothing was posted for them"
        )
    click.echo(
        f"{len(batch.roll) + len(batch.bad)} lines: {_states(batch.roll, len(batch.bad)) or 'nothing to do'}",
        err=err,
    )


def _states(roll: Roll, bad: int) -> str:
    counts = [(roll.counts()[state], state.value) for state in JobState]
    return ", ".join(f"{number} {word}" for number, word in [*counts, (bad, "bad")] if number)
