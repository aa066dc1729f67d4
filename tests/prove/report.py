"""What is printed: a line for each round, the table, and the details of a broken promise."""

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.prove.plan import Match
from tests.prove.round import Counts, Outcome

_WIDE = 160  # columns of a file or a pipe
_SHOWN = 20  # findings of one round
_SUMS = ("jobs", "acknowledged", "archived", "duplicated", "lost")


def console() -> Console:
    """Return a console for stdout; a pipe gets plain lines that are not cut."""
    output = Console(highlight=False)
    return output if output.is_terminal else Console(highlight=False, width=_WIDE)


def lines(number: int, outcome: Outcome) -> Iterator[str]:
    """Return the result of a round: a line for each of its faults."""
    its = outcome.assignment
    for name in its.faults:
        head = f"{number:>4}  {name:<23} {its.setup:<16} seed {its.seed:<6}"
        if outcome.skipped:
            yield f"{head} [yellow]skipped: {escape(outcome.skipped)}[/]"
            continue
        one = outcome.counts.get(name, Counts())
        numbers = (
            f"{one.jobs:>4} jobs {one.acknowledged:>6} acknowledged {one.archived:>4} archived"
            f" {_recovery(outcome):>7}"
        )
        verdict = "[green]kept[/]" if outcome.ok else "[red]BROKEN[/]"
        yield f"{head} {numbers} {outcome.seconds:>6.1f} s  {verdict}"


def table(outcomes: Iterable[Outcome]) -> Table:
    """Sum the rounds up, a row for each fault on each setup."""
    shown = Table(title="Faults, and what was kept", title_justify="left")
    for name in ("fault", "setup"):
        shown.add_column(name)
    for name in ("rounds", *_SUMS, "slowest recovery"):
        shown.add_column(name, justify="right")
    rows: dict[tuple[str, str], list[tuple[Outcome, Counts]]] = {}
    for outcome in outcomes:
        for name, counts in outcome.counts.items():
            rows.setdefault((name, outcome.assignment.setup), []).append((outcome, counts))
    for (fault, setup), mine in sorted(rows.items()):
        shown.add_row(fault, setup, *_cells(mine))
    shown.add_section()
    shown.add_row("all", "", *_cells([one for mine in rows.values() for one in mine]))
    return shown


def _cells(mine: Sequence[tuple[Outcome, Counts]]) -> list[str]:
    sums = [sum(getattr(counts, name) for _, counts in mine) for name in _SUMS]
    slowest = max(
        (outcome.recovery for outcome, _ in mine if outcome.recovery is not None), default=None
    )
    return [
        *(f"{number:,}" for number in (len(mine), *sums)),
        "" if slowest is None else f"{slowest:.1f} s",
    ]


def _recovery(outcome: Outcome) -> str:
    return "" if outcome.recovery is None else f"{outcome.recovery:.2f} s"


def not_reached(planned: Iterable[Match], outcomes: Iterable[Outcome]) -> list[str]:
    """Return the names of the faults for which there was no time."""
    seen = {
        (name, outcome.assignment.setup)
        for outcome in outcomes
        for name in outcome.assignment.faults
    }
    wanted = [(name, match.setup.name) for match in planned for name in match.names]
    return [f"{name} on {setup}" for name, setup in wanted if (name, setup) not in seen]


def broken(outcome: Outcome) -> str:
    """Say which promise, which job, and where the evidence is."""
    its = outcome.assignment
    lines = [f"BROKEN by {', '.join(its.faults)} on {its.setup}, seed {its.seed}:"]
    lines += [
        f"  promise {found.promise}: {found.about}: {found.detail}"
        for found in outcome.broken[:_SHOWN]
    ]
    if len(outcome.broken) > _SHOWN:
        lines.append(f"  … and {len(outcome.broken) - _SHOWN} more")
    if outcome.failure:
        lines += ["  the round broke off:", *(f"    {one}" for one in outcome.failure.splitlines())]
    lines.append(f"  the evidence (data, logs, evidence.json) is in {its.folder}")
    faults = " ".join(f'--fault "{name}"' for name in its.faults)
    lines.append(
        f"  again: make prove PROVE_ARGS='{faults} --setup {its.setup} --seed {its.seed}"
        " --rounds 1'"
    )
    return "\n".join(lines)
