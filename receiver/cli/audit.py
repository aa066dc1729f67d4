"""Commands about the ledger as a whole: audit it, compare it with the archive, rebuild it."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import FrameType

import click

from receiver.cli.base import SOME_FAILED, load, reports_errors, say
from receiver.cli.progress_bar import ProgressBar
from receiver.cli.terminal import console, new_table
from receiver.errors import ReceiverError
from receiver.ledger.queries.audit import Audit
from receiver.maintenance import checkpoint
from receiver.maintenance.checkpoint import Checkpoint, Pass
from receiver.maintenance.deep_audit import DeepAudit, Interrupted
from receiver.maintenance.rebuild import CappedList, Rebuilder, Rebuilt
from receiver.services import Services
from receiver.worker.process import is_working

# Objects that are read in parallel by default.
CONCURRENCY = 8
# Seconds between checkpoints: a deep audit that is killed loses at most this much work.
CHECKPOINT_INTERVAL = 3.0
CONTINUE = "run `receiver audit --deep` again to go on from there"

_concurrency = click.option(
    "--jobs",
    "concurrency",
    type=click.IntRange(1, 64),
    help=f"Objects read in parallel.  [default: {CONCURRENCY}]",
)


class Stop:
    """Set by SIGINT or SIGTERM; ``status`` is then the exit status. A second signal kills."""

    def __init__(self) -> None:
        self.event = Event()
        self.status = 0

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        signal.signal(number, signal.SIG_DFL)
        self.status = 128 + number
        self.event.set()


@contextmanager
def _stopped_by_signals() -> Iterator[Stop]:
    stop = Stop()
    before = {
        number: signal.signal(number, stop.on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@click.command()
@click.option(
    "--deep",
    is_flag=True,
    help="Also read and hash every archived picture, and list objects that no job knows.",
)
@_concurrency
@click.option(
    "--anew",
    "start_over",
    is_flag=True,
    help="Start the deep audit over instead of continuing where the last one stopped.",
)
@reports_errors
def audit(concurrency: int | None, *, deep: bool, start_over: bool) -> None:
    """Check every invariant of the ledger.

    Exit status 1 if one does not hold. The first: submitted = archived + failed + expired + in
    flight. With --deep the archive is checked too: SHA-256 and size of each picture, each manifest,
    and objects that belong to no job. That may take hours. If it is stopped or killed, it continues
    from there the next time.
    """
    if not deep and (start_over or concurrency):
        raise click.UsageError("--anew and --jobs go with --deep")
    # A deep audit writes checkpoints.
    services = Services(load()).open(to_look=not deep, creates=False)
    found = services.totals.audit()
    _print_audit(found)
    for invariant, refs in found.broken.items():
        say(f"broken: {invariant}: {', '.join(refs)}")
    say("every invariant holds" if found.ok else "NOT every invariant holds")
    status = _deep(services, concurrency or CONCURRENCY, start_over=start_over) if deep else 0
    services.close()
    sys.exit(status or (0 if found.ok else SOME_FAILED))


def _print_audit(found: Audit) -> None:
    table = new_table(title="submitted = archived + failed + expired + in flight")
    counts = {
        name: getattr(found, name)
        for name in ("submitted", "archived", "failed", "expired", "in_flight", "difference")
    }
    for name in counts:
        table.add_column(name.replace("_", " "), justify="right")
    table.add_row(*map(str, counts.values()))
    if sys.stdout.isatty():
        console().print(table)
    else:
        for name, count in counts.items():
            say(f"{name}\t{count}", keep="\t")


def _deep(services: Services, concurrency: int, *, start_over: bool) -> int:
    """Audit the archive and return the exit status; remove the checkpoint when it is complete."""
    path = services.settings.data_dir / "deep-audit.json"
    state = _begin(path, services.settings.archive_url, start_over=start_over)
    total = max(sum(services.totals.counts().values()), state.jobs)
    with _stopped_by_signals() as stop:
        try:
            with ProgressBar() as bar:
                observer = _Observer(path, state, bar, total)
                DeepAudit(
                    services.store,
                    services.queries,
                    state,
                    threads=concurrency,
                    stopping=stop.event,
                    show=observer.show,
                ).run()
        except Interrupted:
            return _stopped(path, state, total, stop.status)
        except ReceiverError as error:
            say(str(error), err=True)
            return _stopped(path, state, total, SOME_FAILED)
    _print_differences(state)
    path.unlink(missing_ok=True)
    return _print_result(state)


def _print_result(state: Checkpoint) -> int:
    """Print what a complete deep audit found; return the exit status."""
    say(
        f"{state.jobs} jobs with {state.pictures} pictures, {state.names} objects: "
        f"{_count(state.differences, 'difference')}"
    )
    if state.forgotten:
        say(
            f"{_count(state.forgotten, 'object')} of jobs that were pruned from the ledger, "
            "as their manifests show"
        )
    say(
        "NOT everything is where the ledger says"
        if state.differences
        else "everything is where the ledger says"
    )
    return SOME_FAILED if state.differences else 0


def _begin(path: Path, archive: str, *, start_over: bool) -> Checkpoint:
    """Return the checkpoint to continue from, or a new one; print which it is."""
    state = None if start_over else checkpoint.load(path, archive)
    if state is not None:
        say(
            f"continuing where the last deep audit stopped: {_progress(state)}; --anew starts over",
            err=True,
        )
    elif path.exists() and not start_over:
        say(f"{path} is of another archive, or damaged: starting over", err=True)
    return state or Checkpoint(archive=archive)


def _progress(state: Checkpoint) -> str:
    differences = _count(state.differences, "difference")
    return f"{state.jobs} jobs and {state.names} objects done, {differences} so far"


def _stopped(path: Path, state: Checkpoint, total: int, status: int) -> int:
    """Save the checkpoint, print what was found so far, and return the exit status."""
    checkpoint.save(path, state)
    _print_differences(state)
    say(f"stopped ({_progress(state)}, of {total} jobs); {CONTINUE}", err=True)
    return status


def _print_differences(state: Checkpoint) -> None:
    for line in state.named:
        say(line)
    if more := state.differences - len(state.named):
        say(f"… and {more} more")


class _Observer:
    """Shows the progress of a deep audit, and saves a checkpoint now and then."""

    def __init__(self, path: Path, state: Checkpoint, bar: ProgressBar, total: int) -> None:
        self._path, self._state, self._bar, self._total = path, state, bar, total
        self._next = time.monotonic() + CHECKPOINT_INTERVAL
        self.show()

    def show(self) -> None:
        """Show that one more step is done."""
        differences = _count(self._state.differences, "difference")
        if self._state.step is Pass.PICTURES:
            self._bar.show(f"jobs read, {differences}", self._state.jobs, self._total)
        else:
            self._bar.show(f"objects looked up, {differences}", self._state.names)
        if time.monotonic() >= self._next:
            checkpoint.save(self._path, self._state)
            self._next = time.monotonic() + CHECKPOINT_INTERVAL


@click.command()
@click.option(
    "--below",
    default="",
    metavar="FOLDER",
    help="Only what lies below this folder of the archive, such as 2026/07.",
)
@_concurrency
@reports_errors
def rebuild(below: str, concurrency: int | None) -> None:
    """Rebuild a lost ledger from the manifests in the archive.

    Jobs that the ledger has are not changed, so the command can be stopped, killed and run again.
    Set DATA_DIR, DATABASE_URL and ARCHIVE_URL as for the service, and stop its worker. Exit
    status 1 if a manifest is broken or disagrees with the objects beside it.
    """
    settings = load()
    services = Services(settings).open()
    if is_working(settings.data_dir):
        raise ReceiverError(
            "a worker is working on this ledger: stop it, then run `receiver rebuild` again"
        )
    with _stopped_by_signals() as stop, ProgressBar() as bar:
        rebuilder = Rebuilder(
            services.store,
            services.database,
            services.queries,
            job_timeout=settings.job_timeout,
            threads=concurrency or CONCURRENCY,
            stopping=stop.event,
            show=lambda found: bar.show(
                f"jobs restored, {found.known} known, {found.problems.count} wrong", found.restored
            ),
        )
        try:
            found = rebuilder.run(below.strip("/"))
        except ValueError as error:
            raise click.UsageError(f"--below: {error}") from error
        except ReceiverError:
            _print_rebuilt(rebuilder.so_far)
            raise
    services.close()
    _print_rebuilt(found)
    if stop.status:
        say("stopped; run `receiver rebuild` again to go on", err=True)
    sys.exit(stop.status or (SOME_FAILED if found.problems.count else 0))


def _print_rebuilt(found: Rebuilt) -> None:
    _print_named("wrong", found.problems)
    _print_named("no manifest names", found.unknown)
    say(
        f"restored {_count(found.restored, 'job')} with {_count(found.pictures, 'picture')}; "
        f"{found.known} were in the ledger already"
    )
    if found.problems.count:
        say(
            f"NOT restored, or not whole: {found.problems.count}; repair what is listed above and "
            "run it again, known jobs are skipped"
        )
    if found.unknown.count:
        say(
            f"{_count(found.unknown.count, 'object')} that no manifest names: of jobs in "
            "flight, to be adopted, or left over"
        )


def _print_named(what: str, named: CappedList) -> None:
    for line in named.lines:
        say(f"{what}: {line}")
    if more := named.count - len(named.lines):
        say(f"{what}: … and {more} more")


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
