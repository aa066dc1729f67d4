"""Commands about single jobs: look at them, and try again."""

import re
import sys

import click
from rich.table import Table

from receiver.cli.base import SOME_FAILED, cell, console, each, load, plain, reports_errors
from receiver.errors import ReceiverError
from receiver.jobs.schemas import REF, JobView
from receiver.ledger.rows import Job
from receiver.model import JobState, timestamp
from receiver.services import Services

# Characters of a request that are shown; a reference picture in it may have millions.
LONGEST_PARAMS = 2000


def _ref(_context: click.Context, _option: click.Parameter, value: str) -> str:
    """Refuse what is no ref: every ref is older than some text, so that it would list just anything."""
    if value and not re.fullmatch(REF, value):
        raise click.BadParameter(
            f"{plain(value)} is no ref; write one as `receiver jobs` shows it, such as 01JZ2Q7V3N0123456789ABCDEF"
        )
    return value


@click.command()
@click.option(
    "--state",
    type=click.Choice([state.value for state in JobState]),
    help="Only jobs in this state.",
)
@click.option(
    "-q",
    "--search",
    default="",
    help="Only jobs with this text in ref, provider id, model or prompt.",
)
@click.option(
    "--limit", type=click.IntRange(1, 10000), default=50, show_default=True, help="At most so many."
)
@click.option("--after", default="", callback=_ref, help="Only jobs older than this ref.")
@click.option("--json", "as_json", is_flag=True, help="One job object a line.")
@reports_errors
def jobs(state: str | None, search: str, limit: int, after: str, *, as_json: bool) -> None:
    """List jobs, newest first."""
    services = Services(load()).open(to_look=True)
    found = services.queries.jobs(
        state=JobState(state) if state else None, search=search, after=after, limit=limit
    )
    assets = services.queries.assets([job.ref for job in found])
    services.close()
    if as_json:
        for job in found:
            click.echo(JobView.of(job, assets[job.ref]).model_dump_json())
        return
    table = Table("ref", "state", "model", "submitted", "assets", "message")
    for job in found:
        stored = sum(asset.key is not None for asset in assets[job.ref])
        what = job.reason or job.message
        table.add_row(
            job.ref,
            job.state,
            cell(job.model),
            timestamp(job.submitted_at),
            f"{stored}/{len(assets[job.ref])}",
            cell(what),
        )
    console().print(table)


@click.command()
@click.argument("ref")
@click.option("--json", "as_json", is_flag=True, help="The job object on one line.")
@reports_errors
def show(ref: str, *, as_json: bool) -> None:
    """Show one job: what was asked, what was reported, where its pictures are."""
    services = Services(load()).open(to_look=True)
    job = _known_job(services, ref)
    if as_json:
        click.echo(JobView.of(job, services.queries.assets([ref])[ref]).model_dump_json())
    else:
        _show(services, job)
    services.close()


def _known_job(services: Services, ref: str) -> Job:
    job = services.queries.job(ref)
    if job is None:
        raise ReceiverError(f"there is no job {ref}; `receiver jobs` lists what there is")
    return job


def _show(services: Services, job: Job) -> None:
    screen = console()
    lines = {
        "state": " ".join(filter(None, [job.state, job.reason, job.message])),
        "provider": f"{job.provider} {job.base_url} {job.provider_id or '(no id yet)'}",
        "request": f"{job.model} {services.queries.params(job.ref)[:LONGEST_PARAMS]}",
        "prompt": job.prompt,
        "submitted": timestamp(job.submitted_at),
        "finished": timestamp(job.finished_at) or "",
    }
    for name, value in lines.items():
        screen.print(f"{name:>10}  {plain(value)}", markup=False, highlight=False)
    reported = Table("delivery", "source", "received", "verdict", "bytes", title="deliveries")
    for row in services.queries.delivery_log(job.ref):
        reported.add_row(
            str(row.id), row.source, timestamp(row.received_at), row.verdict, str(row.size)
        )
    stored = Table("asset", "state", "where", "bytes", "type", "SHA-256 or error", title="assets")
    for asset in services.queries.assets([job.ref])[job.ref]:
        where = services.store.locate(asset.key) if asset.key else asset.url
        about = asset.sha256 or asset.error
        stored.add_row(
            str(asset.idx),
            asset.state,
            cell(where),
            str(asset.size or ""),
            asset.content_type,
            cell(about),
        )
    screen.print(reported, stored)


@click.command()
@click.argument("refs", nargs=-1, required=True)
@reports_errors
def retry(refs: tuple[str, ...]) -> None:
    """Open failed or expired jobs again: the provider is asked for their results once more."""
    services = Services(load()).open()
    failures = each(refs, lambda ref: f"{ref} is {services.operator.retry(ref).state}")
    services.engine.notify()
    services.close()
    sys.exit(SOME_FAILED if failures else 0)


@click.command()
@click.argument("deliveries", nargs=-1, required=True, type=click.IntRange(1, 2**63 - 1))
@reports_errors
def replay(deliveries: tuple[int, ...]) -> None:
    """Take kept deliveries in again, by their numbers (`receiver show REF`): after a fix, or to see what they are taken for now."""
    services = Services(load()).open()
    failures = each(
        deliveries,
        lambda number: f"{number} is now {services.operator.replay(number)}",
    )
    services.close()
    sys.exit(SOME_FAILED if failures else 0)
