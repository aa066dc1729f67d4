"""``make bench``: the service's rates and times, compared with yardsticks measured in turn.

Absolute values describe the machine, ratios the service. All files are in a temporary folder;
everything listens on 127.0.0.1 and is ended.
"""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console, Group
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]

from postgres import killable_postgres, postgres_binaries  # noqa: E402 - found by way of the line above
from seaweed import seaweedfs, weed_binary  # noqa: E402 - as above

from tests.bench import (  # noqa: E402 - as above
    archiving,
    callbacks,
    comparison,
    connections,
    costs,
    downloads,
    flood,
    growth,
    latency,
    probes,
    s3_requests,
    walk,
    workers,
)
from tests.bench.archiving import Place, migrated  # noqa: E402
from tests.bench.measurements import Amount, Line, Result  # noqa: E402

FILE = click.Path(dir_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much of everything is measured."""

    callbacks: Amount
    directory: Amount
    s3: Amount
    downloads: Amount
    latency: Amount
    flood: Amount
    probes: Amount
    workers: Amount
    growth: Amount
    sizes: tuple[int, ...]
    ledgers: tuple[int, ...]


FULL = Amounts(
    Amount(9, 3000, 55),
    Amount(7, 200, 15),
    Amount(7, 120, 20),
    Amount(7, 200, 20),
    Amount(100, 1, 25),
    Amount(7, 1000, 150),
    Amount(5, 600, 90),
    Amount(3, 100, 20),
    Amount(6, 500, 40),
    (0, 100_000, 1_000_000),
    (100_000, 1_000_000),
)
QUICK = Amounts(
    Amount(3, 1000, 5),
    Amount(2, 60, 2),
    Amount(2, 40, 3),
    Amount(2, 50, 2),
    Amount(20, 1, 4),
    Amount(3, 300, 20),
    Amount(3, 300, 30),
    Amount(2, 40, 5),
    Amount(2, 200, 5),
    (0, 20_000),
    (20_000,),
)


def _callbacks(folder: Path, amounts: Amounts) -> Result:
    lines = callbacks.measure(folder, amounts.callbacks)
    return Result(
        f"Callbacks, 32 keep-alive connections, {_rounds(lines, amounts.callbacks)}",
        "no-op route",
        lines,
    )


def _directory(folder: Path, amounts: Amounts) -> Result:
    archive = folder / "archive"
    return _archiving(
        folder,
        Place("a directory", f"file://{archive}", str(folder / "bare"), {}),
        amounts.directory,
    )


def _postgresql(folder: Path, amounts: Amounts) -> Result:
    with killable_postgres() as server:
        place = Place(
            "a directory, with PostgreSQL",
            f"file://{folder / 'archive'}",
            str(folder / "bare"),
            migrated(server),
        )
        return _archiving(folder, place, amounts.directory)


def _s3(folder: Path, amounts: Amounts) -> Result:
    with seaweedfs() as server:
        bucket = server.make_bucket()
        place = Place(
            "SeaweedFS", f"s3://{bucket}/archive", f"s3://{bucket}/bare", server.environment()
        )
        return _archiving(folder, place, amounts.s3)


def _archiving(folder: Path, place: Place, amount: Amount) -> Result:
    with archiving.file_server(folder) as url:
        lines = archiving.measure(folder, url, place, amount)
        if place.target.startswith("s3://"):
            lines += s3_requests.measure(folder, url, archiving.variables(folder, url, place))
    return Result(
        f"Pictures of 1 MB to {place.name}, 16 threads, {_rounds(lines, amount)}",
        "bare loop",
        lines,
    )


def _downloads(folder: Path, amounts: Amounts) -> Result:
    lines = downloads.measure(folder, amounts.downloads)
    return Result(
        f"Downloads over TLS with kept connections, {_rounds(lines, amounts.downloads)}",
        "new connections",
        lines,
    )


def _latency(folder: Path, amounts: Amounts) -> Result:
    lines = latency.measure(folder, amounts.latency)
    return Result(
        f"From the callback on, idle, a picture of 0.3 MB, {len(lines[0].ours)} jobs",
        "bare GET",
        lines,
    )


def _flood(folder: Path, amounts: Amounts) -> Result:
    lines = flood.measure(folder, amounts.flood)
    return Result(
        f"A flood of forged callbacks, {flood.PACE} authentic ones a second,"
        f" {_rounds(lines, amounts.flood)}",
        "no flood",
        lines,
    )


def _connections(folder: Path, amounts: Amounts) -> Result:
    lines = connections.measure(folder, amounts.flood)
    return Result(
        f"Connections without a request, {connections.PACE} callbacks a second,"
        f" {_rounds(lines, amounts.flood)}",
        "none",
        lines,
    )


def _probes(folder: Path, amounts: Amounts) -> Result:
    lines = probes.measure(folder, amounts.probes)
    return Result(
        f"{probes.PROBERS} probers while a part hangs, {flood.PACE} callbacks a second,"
        f" {_rounds(lines, amounts.probes)}",
        "no probers",
        lines,
    )


def _growth(folder: Path, amounts: Amounts) -> Result:
    lines = growth.measure(folder, amounts.sizes, amounts.growth)
    return Result(
        f"The ledger as it grows, {growth.THREADS} threads without HTTP,"
        f" {_rounds(lines, amounts.growth)}",
        "empty",
        lines,
    )


def _costs(folder: Path, _amounts: Amounts) -> Table:
    return costs.measure(folder)


def _pages(folder: Path, amounts: Amounts) -> Group:
    return Group(*walk.measure(folder, amounts.ledgers))


def _workers(folder: Path, amounts: Amounts) -> Result:
    lines = workers.measure(folder, amounts.workers)
    return Result(
        f"Worker processes on one PostgreSQL, pictures of 1 MB, {_rounds(lines, amounts.workers)}",
        "one process",
        lines,
    )


def _rounds(lines: list[Line], amount: Amount) -> str:
    return f"{len(lines[0].ours)} × {amount.each}"


MEASURES: dict[str, Callable[[Path, Amounts], Result | Table | Group]] = {
    "callbacks": _callbacks,
    "directory": _directory,
    "postgresql": _postgresql,
    "s3": _s3,
    "downloads": _downloads,
    "latency": _latency,
    "flood": _flood,
    "connections": _connections,
    "probes": _probes,
    "costs": _costs,
    "workers": _workers,
    "growth": _growth,
    "pages": _pages,
}

# These take minutes and are asked for by name.
LONG = {"flood", "connections", "probes", "growth", "pages"}


@click.command()
@click.option("--quick", is_flag=True, help="Fewer rounds: under 45 seconds, and rougher.")
@click.option(
    "--only",
    type=click.Choice(list(MEASURES)),
    multiple=True,
    help="Only this measure; repeatable. Without it all but those that take minutes.",
)
@click.option("--save", type=FILE, help="Write the ratios to this file, for --compare.")
@click.option("--compare", type=FILE, help="Show what is over 15 % slower than in this file.")
def main(*, quick: bool, only: tuple[str, ...], save: Path | None, compare: Path | None) -> None:
    """Measure callbacks acknowledged, pictures archived, and the time from the one to the other."""
    earlier = comparison.load(compare) if compare else {}
    # Leaving by SIGTERM too passes every `finally`, so that no process and no folder stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    console, started = Console(), time.monotonic()
    console.print(f"{os.cpu_count()} cores, load average before: {os.getloadavg()[0]:.1f}")
    results: comparison.Ratios = {}
    for name in only or [name for name in MEASURES if name not in LONG]:
        if (name == "s3" and weed_binary() is None) or (
            name in {"postgresql", "probes", "workers"} and postgres_binaries() is None
        ):
            console.print(
                f"the server of the measure {name} is missing (make setup installs it): left out"
            )
            continue
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            measured = MEASURES[name](Path(folder), QUICK if quick else FULL)
        console.print(measured.table() if isinstance(measured, Result) else measured)
        results |= comparison.ratios(name, measured) if isinstance(measured, Result) else {}
    if save:
        comparison.save(save, results)
    for line in comparison.slower(earlier, results) if compare else []:
        console.print(line)
    console.print(
        f"{time.monotonic() - started:.0f} s; medians over the rounds, ratios taken round by round"
    )


if __name__ == "__main__":
    main()
