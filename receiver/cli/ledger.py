"""Commands about the ledger's database: prepare it, move it to PostgreSQL, and forget what is long over."""

import re
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import click

from receiver import clock
from receiver.cli.base import SOME_FAILED, load, reports_errors
from receiver.cli.progress import Meter
from receiver.errors import ConfigurationError
from receiver.ledger import schema
from receiver.ledger.database import Database, open_database
from receiver.ledger.queries.totals import Totals
from receiver.ledger.sqlite import is_open
from receiver.maintenance import copy_to_postgres as copy
from receiver.maintenance.prune import Pruner
from receiver.services import Services
from receiver.settings import Settings
from receiver.worker.process import is_working

_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0}
# What ended less than this many seconds ago may still be reported on.
_TOO_YOUNG = 3600.0


@click.command()
@click.option(
    "--from",
    "origin",
    metavar="sqlite:///…",
    help="Copy this ledger to the PostgreSQL of DATABASE_URL, as often as wanted.",
)
@reports_errors
def migrate(origin: str | None) -> None:
    """Bring the ledger's schema to this release; with --from, move an embedded ledger up to PostgreSQL.

    The first copy may be made while the embedded service works. Then stop that and run the command again: it brings over what has changed
    since, compares the books of both sides, and declares the copy whole. Exit status 1 as long as it is not.
    """
    settings = load()
    if origin is not None:
        path = _path(origin, settings)
        schema.migrate(origin)
        schema.migrate(settings.database_url)
        sys.exit(_move(origin, path, settings))
    schema.migrate(settings.database_url)
    click.echo(f"the ledger's schema is {schema.HEAD}")


def _path(origin: str, settings: Settings) -> Path:
    """Return the file to be copied; raise ConfigurationError where it cannot be, or the copy could not take over its callbacks."""
    path = Path(origin.removeprefix("sqlite:///"))
    secret = path.parent / "secrets" / "callback"
    kept = _kept(secret)
    mistakes = []
    if not origin.startswith("sqlite:///") or not path.is_file():
        mistakes.append(
            f"--from: {origin} is no ledger; write sqlite:/// and the path of ledger.sqlite3"
        )
    if settings.embedded:
        mistakes.append("DATABASE_URL: must be the postgresql:// to copy to")
    elif kept is not None and kept not in {
        one.get_secret_value() for one in settings.callback_secrets
    }:
        mistakes.append(
            f"CALLBACK_SECRETS: must have the secret of {secret} too, or callbacks of jobs in flight are turned away; put it last"
        )
    if mistakes:
        raise ConfigurationError(mistakes)
    if kept is None:
        click.echo(
            f"CALLBACK_SECRETS could not be checked, {secret} cannot be read: make sure that it has the secrets of the old service too, "
            "its CALLBACK_SECRETS or secrets/callback in its DATA_DIR, or callbacks of jobs in flight are turned away",
            err=True,
        )
    return path


def _kept(secret: Path) -> str | None:
    """Return the secret kept in a file, None where it cannot be read."""
    try:
        return secret.read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _move(origin: str, path: Path, settings: Settings) -> int:
    """Copy, and declare the copy whole if nobody works on the original any more; return the exit status."""
    with closing(open_database(settings.database_url)) as target:
        was_in_use = _is_in_use(path)
        with closing(open_database(origin)) as source:
            _copy(source, target)
            differences = [] if was_in_use else _differences(source, target)
        # Asked before we opened it and after we closed it, because we would count too.
        if was_in_use or _is_in_use(path):
            click.echo(
                "NOT whole: a process has the old ledger open; stop the embedded service, web and worker, then run this again"
            )
            return SOME_FAILED
        if differences:
            click.echo("\n".join(f"NOT alike: {difference}" for difference in differences))
            return SOME_FAILED
        copy.finish(target)
        click.echo(
            "both sides have the same books, and every law holds: start the service with the new DATABASE_URL"
        )
        return 0


def _is_in_use(path: Path) -> bool:
    # A worker of an earlier release says so in its DATA_DIR only, which most often is the ledger's folder.
    return is_open(path) or is_working(path.parent)


def _copy(source: Database, target: Database) -> None:
    copy.begin(target)
    with Meter() as meter:
        done = copy.copy(
            source,
            target,
            lambda table, place, total: meter.show(f"rows of {table} compared", place, total),
        )
    click.echo(
        f"{done.seen} rows compared: {done.new} new, {done.changed} changed, {done.gone} gone"
    )


def _differences(source: Database, target: Database) -> list[str]:
    """Audit both sides; say what is not alike, or breaks a law."""
    ours, its = Totals(source).audit(), Totals(target).audit()
    found = [
        f"{side}: {law}: {', '.join(refs)}"
        for side, audit in (("before", ours), ("after", its))
        for law, refs in audit.broken.items()
    ]
    if ours != its:
        found.append(f"the audit says {ours} before, {its} after")
    before, after = copy.counts(source), copy.counts(target)
    return found + [
        f"{table} has {before[table]} rows before, {after[table]} after"
        for table in before
        if before[table] != after[table]
    ]


def _seconds(_context: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,6})([mhd])", value)
    if found is None or (seconds := int(found[1]) * _UNITS[found[2]]) < _TOO_YOUNG:
        raise click.BadParameter("write a number and m, h or d, such as 90d; at least 1h")
    return seconds


@click.command()
@click.option(
    "--older-than",
    metavar="AGE",
    callback=_seconds,
    help="Remove jobs that ended longer ago, such as 365d.",
)
@click.option(
    "--bodies-older-than",
    metavar="AGE",
    callback=_seconds,
    help="Empty the bodies kept of their deliveries, such as 30d.",
)
@reports_errors
def prune(older_than: float | None, bodies_older_than: float | None) -> None:
    """Forget what ended long ago. The archive keeps every picture, with the manifest that explains it.

    A job that is removed gives its key back, and a callback that comes for it after all is taken for one of a job nobody knows. Jobs that
    somebody is still to be told of stay, and those with the newest event, delivery or failed attempt, so that no number is given twice;
    a body that has the only copy of a picture stays too. Stopped at any moment, it goes on the next time. The database's file does not
    shrink; what is free is used again.
    """
    if older_than is None and bodies_older_than is None:
        raise click.UsageError("say what: --older-than, --bodies-older-than, or both")
    services = Services(load()).open()
    pruner, now = Pruner(services.database), clock.now()
    with Meter() as meter:
        jobs, waiting = (
            _prune_jobs(pruner, now - older_than, meter)
            if older_than is not None
            else (0, Counter[str]())
        )
        bodies = (
            _prune_bodies(pruner, now - bodies_older_than, meter)
            if bodies_older_than is not None
            else 0
        )
    services.close()
    click.echo(f"{jobs} jobs removed, {bodies} bodies emptied")
    for name, count in sorted(waiting.items()):
        click.echo(f"{count} jobs stay: {name} is still to be told of them")
    if waiting:
        click.echo(
            "`receiver events` shows what waits for whom; who is gone for good is forgotten with `receiver events --forget NAME`"
        )


def _prune_jobs(pruner: Pruner, before: float, meter: Meter) -> tuple[int, Counter[str]]:
    done, waiting, after = 0, Counter[str](), ""
    while True:
        gone, stay, after = pruner.jobs(before, after)
        if not after:
            return done, waiting
        done, waiting = done + gone, waiting + stay
        meter.show("jobs removed", done)


def _prune_bodies(pruner: Pruner, before: float, meter: Meter) -> int:
    done, after = 0, ""
    while True:
        count, after = pruner.bodies(before, after)
        if not after:
            return done
        done += count
        meter.show("bodies emptied", done)
