"""The searches of ``make prove``: the large model of a job, long random histories of the ledger.

They come before the rounds and take about a third of the time that these are given.
"""

import os
import sys
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]

from explore import explore  # noqa: E402 - found by way of the line above
from job_model import LARGE_PARTS, PARTS, Model  # noqa: E402 - as above
from job_promises import check, is_done  # noqa: E402 - as above

# Histories for each minute, on each database; each costs about half a second of processor time.
_PER_MINUTE = 15
# The large parts of the model take half a minute.
_LARGE_FROM = 2.0


@click.command()
@click.option("--minutes", envvar="PROVE_MINUTES", type=float, default=3.0)
def main(minutes: float) -> None:
    """Search for a way to break a promise; exit status 1 if there is one."""
    parts = PARTS if minutes < _LARGE_FROM else {**PARTS, **LARGE_PARTS}
    for name, part in parts.items():
        found = explore(part.start, Model(part.workers).steps, check, is_done)
        if found.broken:
            sys.exit(f"BROKEN: promise {found.broken} after {', '.join(found.path)}")
        click.echo(f"the model from {name!r}: {found.states:,} states, every promise is kept")
    examples = max(5, int(_PER_MINUTE * minutes))
    os.environ["MACHINE_EXAMPLES"] = str(examples)
    options = ["--hypothesis-profile=search", "--timeout=0", "-p", "no:cacheprovider"]
    if status := pytest.main([str(ROOT / "tests/integration/test_ledger_machine.py"), *options]):
        sys.exit(int(status))
    click.echo(f"{examples} random histories of two machines on each database: nothing broken")


if __name__ == "__main__":
    main()
