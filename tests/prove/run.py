"""``make prove``: check the promises under every fault; exit status 1 at the first broken one.

Everything listens on 127.0.0.1 and is ended. All files are in a temporary folder, which is kept if
a promise was broken.
"""

import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import click
from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]

from postgres import postgres, postgres_binaries  # noqa: E402 - found by way of the line above
from seaweed import seaweedfs, weed_binary  # noqa: E402 - as above

from tests.prove import report  # noqa: E402 - as above
from tests.prove.check_history import check  # noqa: E402
from tests.prove.faults import FAULTS  # noqa: E402
from tests.prove.parallel_runs import ParallelRuns  # noqa: E402
from tests.prove.plan import Match, Plan, matches  # noqa: E402
from tests.prove.round import Assignment  # noqa: E402
from tests.prove.seeded_faults import SEEDED_FAULTS  # noqa: E402
from tests.prove.setups import SETUPS, Servers  # noqa: E402

_INTERRUPTED = 130
HISTORY = ROOT / "build/prove/history.jsonl"
# Seconds beyond the end for rounds that already run: they were started because they seemed to fit.
_OVERTIME = 20.0


@click.command()
@click.option(
    "--minutes",
    envvar="PROVE_MINUTES",
    type=click.FloatRange(min=0.1),
    default=3.0,
    show_default=True,
    help="Time limit in minutes.",
)
@click.option(
    "--fault",
    "faults",
    type=click.Choice(list(FAULTS)),
    multiple=True,
    help="Only this fault; repeatable.",
)
@click.option(
    "--setup",
    "setups",
    type=click.Choice(list(SETUPS)),
    multiple=True,
    help="Only this setup; repeatable.",
)
@click.option(
    "--rounds", type=click.IntRange(min=1), help="Number of rounds of each, without a time limit."
)
@click.option(
    "--seed", type=click.IntRange(min=0), help="Repeat the random choices of an earlier run."
)
@click.option(
    "--parallel",
    type=click.IntRange(min=1),
    help="Parallel rounds.  [default: two more than there are cores]",
)
@click.option(
    "--seeded-fault",
    type=click.Choice(list(SEEDED_FAULTS)),
    hidden=True,
    help="Seed a loss, to check that it is found.",
)
def main(  # noqa: PLR0917 - click gives each option as an argument, by name
    minutes: float,
    faults: tuple[str, ...],
    setups: tuple[str, ...],
    rounds: int | None,
    seed: int | None,
    parallel: int | None,
    seeded_fault: str | None,
) -> None:
    """Break the service in every way and check its promises."""
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit("stopped")
    )  # so that every `finally` is passed
    console, cores = report.console(), os.cpu_count() or 1
    chosen = _possible(matches(faults, setups), console)
    plan = Plan(chosen, 60 * minutes, secrets.randbelow(100_000) if seed is None else seed, rounds)
    console.print(
        f"seed {plan.seed}, {minutes:g} minutes, {cores} cores,"
        f" load average before: {os.getloadavg()[0]:.1f}"
    )
    folder = Path(tempfile.mkdtemp(prefix="prove-"))
    try:
        with ExitStack() as stack:
            playing = ParallelRuns(_servers(chosen, stack), parallel or cores + 2)
            stack.callback(playing.stop)
            _play(plan, playing, folder, seeded_fault, console)
    except KeyboardInterrupt:
        console.print("interrupted")
        _sum_up(plan, console)
        shutil.rmtree(folder)
        sys.exit(_INTERRUPTED)
    _sum_up(plan, console)
    broken = _check_history(folder, console)
    if worst := [outcome for outcome in plan.outcomes if not outcome.ok]:
        console.print(report.broken(worst[0]), markup=False, soft_wrap=True)
        sys.exit(1)
    if broken:
        sys.exit(f"the checker of the history found what the rounds did not; see {folder}")
    shutil.rmtree(folder)
    console.print("every promise was kept")


def _play(
    plan: Plan, playing: ParallelRuns, folder: Path, seeded_fault: str | None, console: Console
) -> None:
    """Play rounds until all are done, one broke a promise, or the time is over."""
    upcoming, number = iter(plan), count()
    while plan.rounds is not None or plan.left > -_OVERTIME:
        while playing.free and (one := next(upcoming, None)):
            match, seed = one
            playing.start(
                Assignment(
                    match.names,
                    match.setup.name,
                    seed,
                    folder / f"round-{next(number)}",
                    seeded_fault,
                )
            )
        if not playing.under_way:
            return
        for outcome in playing.finished(within=1.0):
            plan.outcomes.append(outcome)
            for line in report.lines(len(plan.outcomes), outcome):
                console.print(line, soft_wrap=True)
            if not outcome.ok:
                return


def _check_history(folder: Path, console: Console) -> list[str]:
    """Put the histories of all rounds together, and let the checker decide from that file alone."""
    parts = sorted(folder.glob("round-*.jsonl"))
    HISTORY.parent.mkdir(parents=True, exist_ok=True)
    HISTORY.write_text("".join(part.read_text(encoding="utf-8") for part in parts))
    rounds, broken = check(HISTORY.read_text(encoding="utf-8"))
    for one in broken[:20]:
        console.print(f"HISTORY: {one}", markup=False, soft_wrap=True)
    if not broken:
        console.print(f"history of {rounds} rounds: every promise was kept ({HISTORY})")
    return broken


def _possible(chosen: Sequence[Match], console: Console) -> list[Match]:
    """Leave out the setups without a server on this machine, and print them."""
    missing = {
        name
        for name, found in {"s3": weed_binary(), "postgresql": postgres_binaries()}.items()
        if found is None
    }
    lacking = {
        match.setup.name for match in chosen if missing & {match.setup.ledger, match.setup.archive}
    }
    for name in sorted(lacking):
        console.print(f"left out, because its server is missing (make setup installs both): {name}")
    return [match for match in chosen if match.setup.name not in lacking]


def _servers(chosen: Sequence[Match], stack: ExitStack) -> Servers:
    """Start the servers that the chosen setups need."""
    needs_s3 = any(
        match.setup.archive == "s3" and match.faults[0].s3 != "killable" for match in chosen
    )
    needs_postgres = any(match.setup.ledger == "postgresql" for match in chosen)
    return Servers(
        stack.enter_context(seaweedfs()).url if needs_s3 else None,
        stack.enter_context(postgres()) if needs_postgres else None,
    )


def _sum_up(plan: Plan, console: Console) -> None:
    console.print(report.table(plan.outcomes))
    if missed := report.not_reached(plan.matches, plan.outcomes):
        console.print(f"no time for {len(missed)}: {', '.join(missed)}", soft_wrap=True)


if __name__ == "__main__":
    main()
