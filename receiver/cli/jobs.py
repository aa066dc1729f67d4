"""Commands about single jobs: list, show, retry, replay, and accept a rejected file."""

import json
import sys

import click
from rich.table import Table
from rich.text import Text

from receiver.archive.manifest import quarantine_key
from receiver.cli.base import (
    SOME_FAILED,
    act_on_each,
    load,
    reports_errors,
    say,
    say_json,
    when,
)
from receiver.cli.moments import MOMENT, MOMENT_AFTER
from receiver.cli.refs import full_ref, known_job, ref_argument, ref_text
from receiver.cli.terminal import console, new_table, print_table
from receiver.jobs.job_object import webhook_shown
from receiver.jobs.schemas import metadata_filter
from receiver.ledger.queries.job_list import Wanted
from receiver.ledger.queries.jobs import REF_LENGTH, ShownRequest
from receiver.ledger.rows import Asset, Job
from receiver.model import JobState, Reason
from receiver.services import Services
from receiver.telemetry.printable import printable

# Characters of a request that are shown: a reference picture in it may have millions.
MAX_REQUEST_SHOWN = 2000
# From the first number of columns on, the list has the model too. Output with more columns than the
# second number does not go to a terminal.
_WIDE, _WIDEST = 100, 1000


def _ref(_context: click.Context, _option: click.Parameter, value: str) -> str:
    """Raise BadParameter unless the value is a ref: any other text would compare as a ref too."""
    return ref_text(value) if value else value


def _refs(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    return tuple(map(ref_text, values))


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
    help="Only jobs with this text in ref, provider id, model or prompt, or with this key.",
)
@click.option("--model", default="", help="Only jobs of this model.")
@click.option(
    "--since", type=MOMENT, help="Only jobs submitted from then on: a day, a time, or 2h, 7d."
)
@click.option("--until", type=MOMENT_AFTER, help="Only jobs submitted until then, a day included.")
@click.option(
    "--reason",
    type=click.Choice([reason.value for reason in Reason]),
    help="Only jobs that failed for this reason.",
)
@click.option("--batch", default="", help="Only jobs of this batch.")
@click.option(
    "--metadata", default="", metavar="K[=V]", help="Only jobs whose metadata have this value."
)
@click.option("--folder", default="", help="Only jobs with exactly this folder.")
@click.option(
    "--limit",
    type=click.IntRange(1, 10000),
    default=50,
    show_default=True,
    help="List at most this many jobs.",
)
@click.option("--after", default="", callback=_ref, help="Only jobs older than this ref.")
@click.option("--json", "as_json", is_flag=True, help="One job object a line.")
@reports_errors
def jobs(
    state: str | None,
    search: str,
    model: str,
    since: float | None,
    until: float | None,
    reason: str | None,
    batch: str,
    metadata: str,
    folder: str,
    limit: int,
    after: str,
    *,
    as_json: bool,
) -> None:
    """List jobs, newest first.

    A search reads a limited number of jobs. Where more may follow, a line on stderr says with
    which --after to continue.
    """
    services = Services(load()).open(to_look=True)
    after = _whole(services, after)
    wanted = Wanted(
        state=JobState(state) if state else None,
        text=search.strip(),
        model=model,
        since=since,
        until=until,
        reason=Reason(reason) if reason else None,
        batch=batch,
        metadata=metadata_filter(metadata),
        folder=folder,
    )
    page = services.job_list.page(wanted, after, limit)
    assets = services.queries.assets([job.ref for job in page.jobs])
    objects = services.job_objects.of(page.jobs) if as_json else []
    services.close()
    if as_json:
        for found in objects:
            say_json(found)
    else:
        print_table(_job_table(page.jobs, assets))
    if page.next:
        what = "older jobs were not searched" if search else "there are more jobs"
        say(f"{what}; to continue, add: --after {page.next}", err=True)


def _whole(services: Services, after: str) -> str:
    """Return the ref to list after, which need not be there any more if it is whole."""
    return full_ref(services, after) if 0 < len(after) < REF_LENGTH else after


def _job_table(found: list[Job], assets: dict[str, list[Asset]]) -> Table:
    """Return a table that fits the terminal, a line a job; elsewhere it has every column."""
    width = console().width
    table = new_table()
    table.box, table.pad_edge, table.padding, table.expand = None, False, (0, 1), True
    for name in ("ref", "state", "submitted", "files"):
        table.add_column(name, no_wrap=True)
    table.add_column("prompt", no_wrap=True, overflow="ellipsis", ratio=3)
    if width >= _WIDE:
        table.add_column("model", no_wrap=True, overflow="ellipsis", ratio=1)
    if width > _WIDEST:
        for name in ("reason", "message", "key", "batch"):
            table.add_column(name)
    for job in found:
        archived = sum(asset.key is not None for asset in assets[job.ref])
        reason = f"{job.reason}: " if job.reason and width <= _WIDEST else ""
        prompt = f"{reason}{job.prompt}"
        cells: list[str | Text | None] = [
            job.ref,
            job.state,
            when(job.submitted_at),
            f"{archived}/{len(assets[job.ref])}",
            prompt if width > _WIDEST else " ".join(prompt.split()),
            job.model,
            job.reason,
            job.message,
            job.key,
            job.batch,
        ]
        table.add_row(*cells[: len(table.columns)])
    return table


@click.command()
@ref_argument
@click.option("--json", "as_json", is_flag=True, help="The job object on one line.")
@reports_errors
def show(ref: str, *, as_json: bool) -> None:
    """Show one job: its request, its deliveries and its assets."""
    services = Services(load()).open(to_look=True)
    job = known_job(services, ref)
    if as_json:
        say_json(services.job_objects.of([job])[0])
    else:
        _show(services, job)
    services.close()


def _show(services: Services, job: Job) -> None:
    shown = services.queries.requests([job.ref]).get(job.ref, ShownRequest({}, {}))
    lines = {
        "ref": job.ref,
        "state": " ".join(filter(None, [job.state, job.reason, job.message])),
        "provider": f"{job.provider} {job.base_url} {job.provider_id or '(no id yet)'}",
        "request": f"{job.model} {services.queries.params(job.ref)[:MAX_REQUEST_SHOWN]}",
        "prompt": job.prompt,
        "key": job.key,
        "batch": job.batch,
        "metadata": "" if shown.metadata == {} else json.dumps(shown.metadata, ensure_ascii=False),
        "folder": job.folder,
        "webhook": webhook_shown(shown.webhook),
        "submitted": when(job.submitted_at),
        "finished": when(job.finished_at),
    }
    output = console()
    for name, value in lines.items():
        if value:
            output.print(f"{name:>10}  {printable(value)}", markup=False, highlight=False)
    found = services.queries.assets([job.ref])[job.ref]
    print_table(_delivery_table(services, job.ref), "delivery")
    _print_entries(_asset_table(services, found), "asset")
    if any(asset.rejected for asset in found):
        _print_entries(_rejected_table(services, found), "rejected")


def _delivery_table(services: Services, ref: str) -> Table:
    table = new_table(
        *("delivery", "source", "received", "verdict", "proof", "bytes", "repaired"),
        title="deliveries",
    )
    for row in services.queries.delivery_log(ref):
        table.add_row(
            str(row.id),
            row.source,
            when(row.received_at),
            row.verdict,
            row.proof or "",
            str(row.size),
            row.repaired,
        )
    return table


def _asset_table(services: Services, found: list[Asset]) -> Table:
    table = new_table(
        "asset", "state", "where", "bytes", "type", "hash or error", "notes", title="assets"
    )
    for asset in found:
        where = services.store.locate(asset.key) if asset.key else asset.url
        table.add_row(
            str(asset.idx),
            asset.state,
            where,
            str(asset.size or ""),
            asset.content_type,
            asset.sha256 or asset.error,
            _notes(asset),
        )
    return table


def _rejected_table(services: Services, found: list[Asset]) -> Table:
    """Return the files that failed inspection. ``where`` is empty if a file is not kept."""
    table = new_table(
        "asset",
        "accepted",
        "where",
        "bytes",
        "claimed type",
        "SHA-256",
        "reason",
        title="rejected files",
    )
    for asset in found:
        if (rejected := asset.rejected) is None:
            continue
        key = quarantine_key(asset.ref, asset.idx, rejected.sha256)
        table.add_row(
            str(asset.idx),
            when(asset.accepted_at),
            services.store.locate(key) if asset.is_acceptable else "",
            str(rejected.size),
            rejected.content_type,
            rejected.sha256,
            rejected.reason,
        )
    return table


def _print_entries(table: Table, section: str) -> None:
    """Print a table whose cells are too long for a terminal: there a cell a line, never cut."""
    if not sys.stdout.isatty():
        print_table(table, section)
        return
    say(f"{table.title}")
    for row in zip(*(column.cells for column in table.columns), strict=True):
        for column, cell in zip(table.columns, row, strict=True):
            if text := str(cell or ""):
                say(f"{column.header!s:>13} {text}")


def _notes(asset: Asset) -> str:
    """Return the defect of a file, the doubt about it, and its marks of origin."""
    return "; ".join(
        [
            *([f"defect: {asset.defect}"] if asset.defect else []),
            *([f"perhaps damaged: {asset.doubt}"] if asset.doubt else []),
            *(f"{mark.kind} ({mark.name}, {mark.size} bytes)" for mark in asset.marks),
        ]
    )


@click.command()
@click.argument("refs", nargs=-1, required=True, callback=_refs)
@reports_errors
def retry(refs: tuple[str, ...]) -> None:
    """Reopen failed or expired jobs.

    The provider is asked for their results again.
    """
    services = Services(load()).open(creates=False)
    failures = act_on_each(refs, lambda text: _retry(services, text))
    services.engine.notify()
    services.close()
    sys.exit(SOME_FAILED if failures else 0)


def _retry(services: Services, text: str) -> str:
    ref = full_ref(services, text)
    return f"{ref} is {services.operator.retry(ref).state}"


@click.command()
@click.argument("deliveries", nargs=-1, required=True, type=click.IntRange(1, 2**63 - 1))
@reports_errors
def replay(deliveries: tuple[int, ...]) -> None:
    """Process stored deliveries again.

    Name them by their numbers, as `receiver show REF` shows them. Use it after a fix of how
    deliveries are read.
    """
    services = Services(load()).open(creates=False)
    failures = act_on_each(
        deliveries,
        lambda number: f"{number} is now {services.operator.replay(number)}",
    )
    services.close()
    sys.exit(SOME_FAILED if failures else 0)


@click.command()
@ref_argument
@click.argument("index", type=click.IntRange(0, 2**31 - 1))
@click.option(
    "--sha256",
    default="",
    help="Only if the rejected file has this SHA-256: a retry may have brought another one.",
)
@reports_errors
def accept(ref: str, index: int, sha256: str) -> None:
    """Accept the rejected file of an asset as its result.

    The file is archived like any other, and marked as accepted in the manifest. The job ends again:
    it is archived if all its assets are. `receiver show REF` lists rejected files with the reason.
    Look at the file before: nothing has checked that it is the picture.
    """
    services = Services(load()).open(creates=False)
    ref = full_ref(services, ref)
    job = services.operator.accept(ref, index, sha256.lower())
    services.engine.notify()
    services.close()
    say(f"asset {index} of {ref} is accepted; the job is {job.state}")
