"""Ratios of one run kept in a file, and what a later run does worse.

Ratios are compared and not values: another machine, or the same one under load, changes the values
of the service and of its yardstick alike.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import click

from tests.bench.measurements import Result

# By the name of a line: its ratio to the yardstick, and whether a larger one is better.
Ratios = dict[str, tuple[float, bool]]

TOLERATED = 0.15


def ratios(measure: str, result: Result) -> Ratios:
    """Return the ratios of a measure; only rates are better when they are larger."""
    return {f"{measure}: {one.name}": (one.ratio, one.unit == "1/s") for one in result.lines}


def save(file: Path, found: Ratios) -> None:
    """Write ratios to a file."""
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def load(file: Path) -> Ratios:
    """Read what ``save`` wrote; raise a usage error for any other file."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {str(name): (float(ratio), bool(rate)) for name, (ratio, rate) in found.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise click.UsageError(f"--compare {file}: not a file that --save wrote: {error}") from None


def slower(before: Ratios, now: Ratios) -> Iterator[str]:
    """Yield a line of text for each ratio that became worse by more than ``TOLERATED``.

    Then yield how many ratios both runs have; without any there was no comparison.
    """
    both = [name for name in now if name in before]
    for name in both:
        (old, is_rate), (new, _) = before[name], now[name]
        worse = old / new if is_rate else new / old
        if worse > 1 + TOLERATED:
            yield f"slower: {name}, ratio {old:.2f} before, {new:.2f} now ({worse:.2f} times)"
    yield f"compared {len(both)} ratios with the earlier run"
