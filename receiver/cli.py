"""The ``receiver`` command."""

import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import click
from rich.console import Console
from rich.table import Table

from receiver import logs, supervisor
from receiver.archive.manifest import timestamp
from receiver.errors import ConfigurationError, ReceiverError, UnreadableError
from receiver.ledger import schema
from receiver.ledger.reports import Audit
from receiver.ledger.rows import Job
from receiver.model import Delivery, JobState, Source
from receiver.services import Services
from receiver.settings import Settings
from receiver.views import JobView
from receiver.worker import work

P = ParamSpec("P")
T = TypeVar("T")

# Exit statuses of every command.
SOME_FAILED, WRONG_USAGE = 1, 2
# Columns of a table that goes into a file or a pipe.
WIDE = 240
# Characters of a request that are shown; a reference picture in it may have millions.
LONGEST_PARAMS = 2000


def errors_told(command: Callable[P, T]) -> Callable[P, T]:
    """Turn errors into a text and an exit status: 2 for a wrong configuration, every mistake on a line, else 1."""

    @wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except ConfigurationError as error:
            click.echo("the configuration is wrong:", err=True)
            for mistake in error.mistakes:
                click.echo(f"  {mistake}", err=True)
            sys.exit(WRONG_USAGE)
        except ReceiverError as error:
            click.echo(str(error), err=True)
            sys.exit(SOME_FAILED)

    return guarded


def console() -> Console:
    """Return a console for stdout; where that is no terminal, lines are wide enough that nothing is cut."""
    return Console(width=None if sys.stdout.isatty() else WIDE)


def load() -> Settings:
    """Read the environment and set up logging as it says."""
    settings = Settings.load(os.environ)
    logs.configure(settings)
    return settings


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Receive the callbacks of paid image generation and archive the pictures before their URLs expire."""


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for every interface.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on.  [default: PORT, else 8787]")
@errors_told
def serve(host: str, port: int | None) -> None:
    """Run web and worker in one supervised process tree; SIGTERM drains."""
    settings = load()
    services = Services(settings).open()
    port = settings.port if port is None else port
    click.echo(f"receiver on http://{host}:{port}", err=True)
    click.echo(f"  archive  {settings.archive_url}", err=True)
    click.echo(f"  ledger   {settings.data_dir if settings.embedded else 'PostgreSQL'}", err=True)
    if settings.admin_token is None:
        click.echo(f"  ADMIN_TOKEN {services.admin_token}", err=True)
    if settings.public_url is None:
        click.echo("  PUBLIC_URL is not set: callbacks cannot be asked for, results are polled only", err=True)
    if settings.grsai_api_key is None:
        click.echo("  GRSAI_API_KEY is not set: a job whose callback is lost cannot be polled", err=True)
    assert services.tickets  # noqa: S101 - made and kept before two processes ask for it
    services.close()
    supervisor.serve(host, port)


@main.command()
@errors_told
def worker() -> None:
    """Archive, poll and conclude until SIGTERM."""
    services = Services(load()).open()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: services.engine.stop())
    work(services)
    services.close()


@main.command()
@errors_told
def migrate() -> None:
    """Bring the ledger's schema to this release."""
    settings = load()
    schema.migrate(settings.database_url)
    click.echo(f"the ledger's schema is {schema.HEAD}")


@main.command()
@errors_told
def audit() -> None:
    """Check the conservation law and every other law of the ledger; exit status 1 where one does not hold."""
    services = Services(load()).open()
    found = services.reports.audit()
    services.close()
    console().print(_audit_table(found))
    for law, refs in found.broken.items():
        click.echo(f"broken: {law}: {', '.join(refs)}")
    click.echo("every law holds" if found.ok else "NOT every law holds")
    sys.exit(0 if found.ok else SOME_FAILED)


def _audit_table(found: Audit) -> Table:
    table = Table(title="submitted = archived + failed + expired + in flight")
    figures = {name: getattr(found, name) for name in ("submitted", "archived", "failed", "expired", "in_flight", "difference")}
    for name in figures:
        table.add_column(name.replace("_", " "), justify="right")
    table.add_row(*map(str, figures.values()))
    return table


@main.command()
@click.option("--state", type=click.Choice([state.value for state in JobState]), help="Only jobs in this state.")
@click.option("-q", "--search", default="", help="Only jobs with this text in ref, provider id, model or prompt.")
@click.option("--limit", type=click.IntRange(1, 10000), default=50, show_default=True, help="At most so many.")
@click.option("--after", default="", help="Only jobs older than this ref.")
@click.option("--json", "as_json", is_flag=True, help="One job object a line.")
@errors_told
def jobs(state: str | None, search: str, limit: int, after: str, *, as_json: bool) -> None:
    """List jobs, newest first."""
    services = Services(load()).open()
    found = services.reports.jobs(state=JobState(state) if state else None, search=search, after=after, limit=limit)
    assets = services.reports.assets([job.ref for job in found])
    services.close()
    if as_json:
        for job in found:
            click.echo(JobView.of(job, assets[job.ref]).model_dump_json())
        return
    table = Table("ref", "state", "model", "submitted", "assets", "message")
    for job in found:
        stored = sum(asset.key is not None for asset in assets[job.ref])
        what = job.reason or job.message
        table.add_row(job.ref, job.state, job.model, timestamp(job.submitted_at), f"{stored}/{len(assets[job.ref])}", what)
    console().print(table)


@main.command()
@click.argument("ref")
@click.option("--json", "as_json", is_flag=True, help="The job object on one line.")
@errors_told
def show(ref: str, *, as_json: bool) -> None:
    """Show one job: what was asked, what was reported, where its pictures are."""
    services = Services(load()).open()
    job = _known_job(services, ref)
    if as_json:
        click.echo(JobView.of(job, services.reports.assets([ref])[ref]).model_dump_json())
    else:
        _show(services, job)
    services.close()


def _known_job(services: Services, ref: str) -> Job:
    job = services.reports.job(ref)
    if job is None:
        raise ReceiverError(f"there is no job {ref}; `receiver jobs` lists what there is")
    return job


def _show(services: Services, job: Job) -> None:
    screen = console()
    lines = {
        "state": " ".join(filter(None, [job.state, job.reason, job.message])),
        "provider": f"{job.provider} {job.base_url} {job.provider_id or '(no id yet)'}",
        "request": f"{job.model} {services.reports.params(job.ref)[:LONGEST_PARAMS]}",
        "prompt": job.prompt,
        "submitted": timestamp(job.submitted_at),
        "finished": timestamp(job.finished_at) or "",
    }
    for name, value in lines.items():
        screen.print(f"{name:>10}  {_plain(value)}", markup=False, highlight=False)
    reported = Table("delivery", "source", "received", "verdict", "bytes", title="deliveries")
    for row in services.reports.delivery_log(job.ref):
        reported.add_row(str(row.id), row.source, timestamp(row.received_at), row.verdict, str(row.size))
    stored = Table("asset", "state", "where", "bytes", "type", "SHA-256 or error", title="assets")
    for asset in services.reports.assets([job.ref])[job.ref]:
        where = services.store.locate(asset.key) if asset.key else asset.url
        stored.add_row(str(asset.idx), asset.state, where, str(asset.size or ""), asset.content_type, asset.sha256 or asset.error)
    screen.print(reported, stored)


def _plain(text: str | None) -> str:
    """Make a stranger's text harmless for a terminal: control characters become visible."""
    return "".join(character if character.isprintable() or character == "\n" else repr(character)[1:-1] for character in text or "")


@main.command()
@click.argument("refs", nargs=-1, required=True)
@errors_told
def retry(refs: tuple[str, ...]) -> None:
    """Open failed or expired jobs again: the provider is asked for their results once more."""
    services = Services(load()).open()
    failures = _each(refs, lambda ref: f"{ref} is {services.ledger.retry(ref).state}")
    services.engine.ring()
    services.close()
    sys.exit(SOME_FAILED if failures else 0)


@main.command()
@click.argument("deliveries", nargs=-1, required=True, type=click.IntRange(1, 2**63 - 1))
@errors_told
def replay(deliveries: tuple[int, ...]) -> None:
    """Take kept deliveries in again, by their numbers (`receiver show REF`): after a fix, or to see what they are taken for now."""
    services = Services(load()).open()
    failures = _each(deliveries, lambda number: _replay(services, number))
    services.close()
    sys.exit(SOME_FAILED if failures else 0)


def _replay(services: Services, number: int) -> str:
    row = services.reports.delivery(number)
    if row is None:
        raise ReceiverError(f"there is no delivery {number}; `receiver show REF` lists a job's")
    again = Delivery(row.ref, Source(row.source), row.body, row.received_at)
    try:
        return f"{number} is now {services.inbox.accept(again, replayed=number)}"
    except UnreadableError as error:
        raise ReceiverError(f"{number} is still unreadable: {error}") from error


def _each(things: tuple[T, ...], act: Callable[[T], str]) -> int:
    """Do something to each thing; tell what came of it and return how many failed."""
    failures = 0
    for thing in things:
        try:
            click.echo(act(thing))
        except ReceiverError as error:
            click.echo(str(error), err=True)
            failures += 1
    return failures
