"""Commands about the database: create or migrate it, copy it, prune it."""

import re
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import click
from sqlalchemy import make_url

from receiver import clock
from receiver.cli.base import SOME_FAILED, load, reports_errors, say
from receiver.cli.progress_bar import ProgressBar
from receiver.errors import ConfigurationError
from receiver.ingest.kept_secrets import old_path, read_old
from receiver.ledger import schema
from receiver.ledger.database import Database, open_database
from receiver.ledger.queries.totals import Totals
from receiver.ledger.shared_settings import mark_moved
from receiver.ledger.sqlite import is_open
from receiver.maintenance import copy_to_postgres as copy
from receiver.maintenance.backup import back_up
from receiver.maintenance.prune import Pruner
from receiver.services import Services
from receiver.settings import Settings
from receiver.worker.process import is_working

_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0}
# Seconds: for younger jobs reports may still arrive.
_TOO_YOUNG = 3600.0


@click.command()
@click.option(
    "--from",
    "origin",
    metavar="sqlite:///…",
    help="Copy this ledger to the PostgreSQL of DATABASE_URL; may be repeated.",
)
@reports_errors
def migrate(origin: str | None) -> None:
    """Migrate the ledger's schema to this release.

    With --from it copies an embedded ledger first. The first copy may be made while the embedded
    service runs. Then stop it and run the command again: it copies what has changed since, compares
    both sides, and marks the copy as complete. Exit status 1 until then.
    """
    settings = load()
    if origin is not None:
        path = _path(origin, settings)
        schema.migrate(origin)
        schema.migrate(settings.database_url)
        sys.exit(_move(origin, path, settings))
    say(f"the ledger's schema is {schema.migrate(settings.database_url)}")


def _path(origin: str, settings: Settings) -> Path:
    """Return the file to copy.

    Raise ConfigurationError if it cannot be copied, or if callbacks of its jobs would be refused.
    """
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
    elif not set(kept) <= {one.get_secret_value() for one in settings.callback_secrets}:
        its = "secret" if len(kept) == 1 else f"{len(kept)} secrets"
        files = secret if len(kept) == 1 else f"{secret} and {old_path(secret).name}"
        mistakes.append(
            f"CALLBACK_SECRETS: must include the {its} in {files}, or callbacks of jobs in "
            "flight are refused; put it last"
        )
    if mistakes:
        raise ConfigurationError(mistakes)
    if not kept:
        say(
            f"CALLBACK_SECRETS could not be checked, {secret} cannot be read: make sure that it "
            "includes the secrets of the old service, its CALLBACK_SECRETS or secrets/callback in "
            "its DATA_DIR, or callbacks of jobs in flight are refused",
            err=True,
        )
    return path


def _kept(secret: Path) -> list[str]:
    """Return the secret in a file and those before it; none if they cannot be read."""
    try:
        newest = secret.read_text(encoding="ascii").split()
        return newest + read_old(secret) if newest else []
    except (OSError, UnicodeDecodeError, ConfigurationError):
        return []


def _move(origin: str, path: Path, settings: Settings) -> int:
    """Copy; mark the copy as complete if no process uses the original. Return the exit status."""
    with closing(open_database(settings.database_url)) as target:
        was_in_use = _is_in_use(path)
        with closing(open_database(origin)) as source:
            _copy(source, target)
            differences = [] if was_in_use else _differences(source, target)
        # Checked before we open it and after we close it, because we would count too.
        if was_in_use or _is_in_use(path):
            say(
                "NOT complete: a process has the old ledger open; stop the embedded service, web "
                "and worker, then run this again"
            )
            return SOME_FAILED
        if differences:
            for difference in differences:
                say(f"NOT equal: {difference}")
            return SOME_FAILED
        # First the mark: a run that was killed in between is repeated.
        with closing(open_database(origin)) as source:
            mark_moved(source, _without_password(settings.database_url), clock.now())
        copy.finish(target)
        say(
            "both sides are equal, and every invariant holds: start the service with the new "
            "DATABASE_URL; the old ledger is marked and no service starts on it"
        )
        return 0


def _without_password(address: str) -> str:
    """Return a database's address for display."""
    url = make_url(address)
    port = f":{url.port}" if url.port else ""
    return f"postgresql://{url.host or ''}{port}/{url.database or ''}"


def _is_in_use(path: Path) -> bool:
    # A worker of an earlier release has only its lock in DATA_DIR, mostly the ledger's folder.
    return is_open(path) or is_working(path.parent)


def _copy(source: Database, target: Database) -> None:
    copy.begin(target)
    with ProgressBar() as bar:
        done = copy.copy(
            source,
            target,
            lambda table, done, total: bar.show(f"rows of {table} compared", done, total),
        )
    say(f"{done.seen} rows compared: {done.new} new, {done.changed} changed, {done.gone} gone")


def _differences(source: Database, target: Database) -> list[str]:
    """Audit both sides; return what differs between them, or breaks an invariant."""
    ours, its = Totals(source).audit(), Totals(target).audit()
    found = [
        f"{side}: {invariant}: {', '.join(refs)}"
        for side, audit in (("before", ours), ("after", its))
        for invariant, refs in audit.broken.items()
    ]
    if ours != its:
        found.append(f"the audit found {ours} before, {its} after")
    before, after = copy.counts(source), copy.counts(target)
    return found + [
        f"{table} has {before[table]} rows before, {after[table]} after"
        for table in before
        if before[table] != after[table]
    ]


def _new_file(_context: click.Context, _argument: click.Parameter, value: Path) -> Path:
    if value.exists() or value.is_symlink():
        raise click.BadParameter(f"{value} exists; a backup replaces nothing, choose another name")
    if not value.parent.is_dir():
        raise click.BadParameter(f"there is no folder {value.parent}; create it first")
    return value


@click.command()
@click.argument("file", type=click.Path(path_type=Path), callback=_new_file)
@reports_errors
def backup(file: Path) -> None:
    """Copy the ledger to FILE while the service runs.

    FILE has everything that was committed at one moment; a copy of the ledger's own file would lack
    what is still in the WAL beside it. FILE must not exist yet. Pictures and secrets are not in it.
    For PostgreSQL use pg_dump.
    """
    settings = load()
    if not settings.embedded:
        remedy = f"pg_dump --format=custom --file={file}"
        raise ConfigurationError(
            [f"DATABASE_URL: this command is for SQLite; back up PostgreSQL with {remedy}"]
        )
    Services(settings).require_ledger()
    jobs = back_up(settings.ledger_path, file)
    say(f"{file}: {jobs} jobs, {file.stat().st_size} bytes")


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
    help="Delete jobs that ended longer ago, such as 365d.",
)
@click.option(
    "--bodies-older-than",
    metavar="AGE",
    callback=_seconds,
    help="Delete the stored bodies of older deliveries, such as 30d.",
)
@reports_errors
def prune(older_than: float | None, bodies_older_than: float | None) -> None:
    """Delete jobs that ended long ago from the ledger. The archive keeps pictures and manifests.

    Rejected files of deleted jobs are deleted from the quarantine, because they could not be
    accepted any more. The key of a deleted job may be used again, and a late callback for it counts
    as one of an unknown job. Some rows are not deleted: jobs with undelivered events; the jobs with
    the newest event, delivery or failed attempt, so that no number is used twice; and a body with
    the only copy of a picture. If it is stopped, it continues the next time. The file of the
    database does not shrink; its free space is used again.
    """
    if older_than is None and bodies_older_than is None:
        raise click.UsageError("name --older-than, --bodies-older-than, or both")
    services = Services(load()).open(creates=False)
    if older_than is not None and services.quarantine_records.total().files:
        services.store.check()  # before the ledger forgets jobs whose rejected files are deleted
    pruner, now = Pruner(services.database, services.store), clock.now()
    with ProgressBar() as bar:
        jobs, waiting = (
            _prune_jobs(pruner, now - older_than, bar)
            if older_than is not None
            else (0, Counter[str]())
        )
        bodies = (
            _prune_bodies(pruner, now - bodies_older_than, bar)
            if bodies_older_than is not None
            else 0
        )
    services.close()
    say(f"{jobs} jobs deleted, {bodies} bodies deleted")
    for name, count in sorted(waiting.items()):
        say(f"{count} jobs are kept: their events are not delivered to {name} yet")
    if waiting:
        say(
            "`receiver events` shows what waits; a destination that is gone for good is deleted "
            "with `receiver events --forget NAME`"
        )


def _prune_jobs(pruner: Pruner, before: float, bar: ProgressBar) -> tuple[int, Counter[str]]:
    done, waiting, after = 0, Counter[str](), ""
    while True:
        gone, stay, after = pruner.jobs(before, after)
        if not after:
            return done, waiting
        done, waiting = done + gone, waiting + stay
        bar.show("jobs deleted", done)


def _prune_bodies(pruner: Pruner, before: float, bar: ProgressBar) -> int:
    done, after = 0, ""
    while True:
        count, after = pruner.bodies(before, after)
        if not after:
            return done
        done += count
        bar.show("bodies deleted", done)
