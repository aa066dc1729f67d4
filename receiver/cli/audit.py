"""Commands about the whole: do the books agree, is everything where they say, and put them together again from the archive."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import FrameType

import click
from rich.table import Table

from receiver.cli.base import SOME_FAILED, console, load, plain, reports_errors
from receiver.cli.progress import Meter
from receiver.errors import ReceiverError
from receiver.ledger.queries import Audit
from receiver.maintenance import checkpoint
from receiver.maintenance.checkpoint import Checkpoint, Step
from receiver.maintenance.deep_audit import DeepAudit, Interrupted
from receiver.maintenance.rebuild import CappedList, Rebuilder, Rebuilt
from receiver.services import Services
from receiver.worker.process import is_working

# Objects read side by side unless somebody says otherwise.
HANDS = 8
# Seconds of work a deep audit may lose when it is killed.
KEPT_EVERY = 3.0
GO_ON = "run `receiver audit --deep` again to go on from there"

_hands = click.option(
    "--jobs",
    "hands",
    type=click.IntRange(1, 64),
    help=f"Objects read side by side.  [default: {HANDS}]",
)


class Stop:
    """Set by SIGINT or SIGTERM, of which the ``status`` tells; a second signal ends the process at once."""

    def __init__(self) -> None:
        self.event = Event()
        self.status = 0

    def by(self, number: int, _frame: FrameType | None) -> None:
        """Take note of a signal."""
        signal.signal(number, signal.SIG_DFL)
        self.status = 128 + number
        self.event.set()


@contextmanager
def _stopped_by_signals() -> Iterator[Stop]:
    stop = Stop()
    before = {number: signal.signal(number, stop.by) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@click.command()
@click.option(
    "--deep",
    is_flag=True,
    help="Also read and hash every archived picture, and name what nobody knows.",
)
@_hands
@click.option(
    "--anew",
    is_flag=True,
    help="Start the deep audit over instead of going on where the last one stopped.",
)
@reports_errors
def audit(hands: int | None, *, deep: bool, anew: bool) -> None:
    """Check the conservation law and every other law of the ledger; exit status 1 where one does not hold.

    With --deep the archive is checked too: each picture's SHA-256 and size, each manifest, and objects that are in no book. That may take
    hours; stopped or killed, it goes on from there the next time.
    """
    if not deep and (anew or hands):
        raise click.UsageError("--anew and --jobs go with --deep")
    services = Services(load()).open(to_look=not deep)  # a deep audit keeps its place
    found = services.queries.audit()
    console().print(_audit_table(found))
    for law, refs in found.broken.items():
        click.echo(f"broken: {law}: {', '.join(refs)}")
    click.echo("every law holds" if found.ok else "NOT every law holds")
    status = _deep(services, hands or HANDS, anew=anew) if deep else 0
    services.close()
    sys.exit(status or (0 if found.ok else SOME_FAILED))


def _audit_table(found: Audit) -> Table:
    table = Table(title="submitted = archived + failed + expired + in flight")
    figures = {
        name: getattr(found, name)
        for name in ("submitted", "archived", "failed", "expired", "in_flight", "difference")
    }
    for name in figures:
        table.add_column(name.replace("_", " "), justify="right")
    table.add_row(*map(str, figures.values()))
    return table


def _deep(services: Services, hands: int, *, anew: bool) -> int:
    """Audit the archive and return the exit status; the place is kept until it is through."""
    path = services.settings.data_dir / "deep-audit.json"
    place = _begin(path, services.settings.archive_url, anew=anew)
    total = max(sum(services.queries.counts().values()), place.jobs)
    with _stopped_by_signals() as stop:
        try:
            with Meter() as meter:
                keeper = _Keeper(path, place, meter, total)
                DeepAudit(
                    services.store,
                    services.queries,
                    place,
                    threads=hands,
                    stopping=stop.event,
                    show=keeper.show,
                ).run()
        except Interrupted:
            return _stopped(path, place, total, stop.status)
        except ReceiverError as error:
            click.echo(str(error), err=True)
            return _stopped(path, place, total, SOME_FAILED)
    _tell_differences(place)
    path.unlink(missing_ok=True)
    click.echo(
        f"{place.jobs} jobs with {place.pictures} pictures, {place.names} objects: {_count(place.differences, 'difference')}"
    )
    if place.forgotten:
        click.echo(
            f"{_count(place.forgotten, 'object')} of jobs that the ledger no longer has, as their manifests tell"
        )
    click.echo(
        "NOT everything is where the ledger says"
        if place.differences
        else "everything is where the ledger says"
    )
    return SOME_FAILED if place.differences else 0


def _begin(path: Path, archive: str, *, anew: bool) -> Checkpoint:
    """Return the place to go on from, and say that it is one, or a new one."""
    place = None if anew else checkpoint.load(path, archive)
    if place is not None:
        click.echo(
            f"going on where the last deep audit stopped: {_where(place)}; --anew starts over",
            err=True,
        )
    elif path.exists() and not anew:
        click.echo(f"{path} is of another archive, or damaged: starting over", err=True)
    return place or Checkpoint(archive=archive)


def _where(place: Checkpoint) -> str:
    return f"{place.jobs} jobs and {place.names} objects done, {_count(place.differences, 'difference')} so far"


def _stopped(path: Path, place: Checkpoint, total: int, status: int) -> int:
    """Keep the place, and tell what was found on the way there."""
    checkpoint.save(path, place)
    _tell_differences(place)
    click.echo(f"stopped ({_where(place)}, of {total} jobs); {GO_ON}", err=True)
    return status


def _tell_differences(place: Checkpoint) -> None:
    for line in place.named:
        click.echo(plain(line))
    if more := place.differences - len(place.named):
        click.echo(f"… and {more} more")


class _Keeper:
    """Shows how far a deep audit is, and keeps its place now and then."""

    def __init__(self, path: Path, place: Checkpoint, meter: Meter, total: int) -> None:
        self._path, self._place, self._meter, self._total = path, place, meter, total
        self._next = time.monotonic() + KEPT_EVERY
        self.show()

    def show(self) -> None:
        """Take note that one more step is done."""
        differences = _count(self._place.differences, "difference")
        if self._place.step is Step.PICTURES:
            self._meter.show(f"jobs read, {differences}", self._place.jobs, self._total)
        else:
            self._meter.show(f"objects looked up, {differences}", self._place.names)
        if time.monotonic() >= self._next:
            checkpoint.save(self._path, self._place)
            self._next = time.monotonic() + KEPT_EVERY


@click.command()
@click.option(
    "--below",
    default="",
    metavar="FOLDER",
    help="Only what lies below this folder of the archive, such as 2026/07.",
)
@_hands
@reports_errors
def rebuild(below: str, hands: int | None) -> None:
    """Rebuild a lost ledger from the manifests in the archive.

    What the ledger has already is left alone, so that it can be stopped, killed and run again. Set DATA_DIR, DATABASE_URL and
    ARCHIVE_URL as the service has them, and stop its worker. Exit status 1 if a manifest is broken or disagrees with what lies beside it.
    """
    settings = load()
    services = Services(settings).open()
    if is_working(settings.data_dir):
        raise ReceiverError(
            "a worker is working on this ledger: stop it, then run `receiver rebuild` again"
        )
    with _stopped_by_signals() as stop, Meter() as meter:
        rebuilder = Rebuilder(
            services.store,
            services.ledger,
            services.queries,
            threads=hands or HANDS,
            stopping=stop.event,
            show=lambda found: meter.show(
                f"jobs restored, {found.known} known, {found.problems.count} wrong", found.restored
            ),
        )
        try:
            found = rebuilder.run(below.strip("/"))
        except ValueError as error:
            raise click.UsageError(f"--below: {error}") from error
        except ReceiverError:
            _tell_rebuilt(rebuilder.so_far)
            raise
    services.close()
    _tell_rebuilt(found)
    if stop.status:
        click.echo("stopped; run `receiver rebuild` again to go on", err=True)
    sys.exit(stop.status or (SOME_FAILED if found.problems.count else 0))


def _tell_rebuilt(found: Rebuilt) -> None:
    _tell("wrong", found.problems)
    _tell("no manifest names", found.unknown)
    click.echo(
        f"restored {_count(found.restored, 'job')} with {_count(found.pictures, 'picture')}; {found.known} were in the ledger already"
    )
    if found.problems.count:
        click.echo(
            f"NOT restored, or not whole: {found.problems.count}; mend what is named above and run it again, known jobs are passed over"
        )
    if found.unknown.count:
        click.echo(
            f"{_count(found.unknown.count, 'object')} that no manifest names: of jobs in flight, to be adopted, or left over"
        )


def _tell(what: str, named: CappedList) -> None:
    for line in named.lines:
        click.echo(f"{what}: {plain(line)}")
    if more := named.count - len(named.lines):
        click.echo(f"{what}: … and {more} more")


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
