"""The command ``receiver get``: save the pictures of a job, or write one to stdout."""

import sys
from functools import partial
from pathlib import Path

import click

from receiver.archive import saving
from receiver.cli.base import SOME_FAILED, load, reports_errors, say
from receiver.cli.refs import known_job, ref_argument
from receiver.errors import ReceiverError
from receiver.ledger.rows import Asset, Job
from receiver.services import Services

STDOUT = "-"


@click.command()
@ref_argument
@click.argument("index", type=click.IntRange(0, 2**31 - 1), required=False)
@click.option(
    "-o",
    "--output",
    metavar="FILE|DIR|-",
    default="",
    help="Where to save: a directory, a file for one picture, or - for stdout.  "
    "[default: the current directory]",
)
@click.option("--overwrite", is_flag=True, help="Replace another file that has the name.")
@click.option("--link", "links", is_flag=True, help="Print links that need no token instead.")
@reports_errors
def get(ref: str, index: int | None, output: str, *, overwrite: bool, links: bool) -> None:
    """Save the archived pictures of a job, or the one with this INDEX.

    In a directory a picture is called REF-INDEX and its extension; a directory that is missing is
    made if its name ends with a slash or there are several pictures. A file appears whole or not
    at all, its SHA-256 is checked, and no other file is overwritten. Prints the path of each file.

    Exit status 1 if a picture is not archived or could not be saved, 2 for wrong usage.
    """
    services = Services(load()).open(to_look=True)
    try:
        job = known_job(services, ref)
        wanted = _wanted(services, job, index)
        archived = [asset for asset in wanted if asset.key]
        if output == STDOUT and len(archived) > 1:
            raise click.UsageError(
                f"{job.ref} has {len(wanted)} pictures, and stdout takes one: give its INDEX"
            )
        for asset in wanted:
            if asset.key is None:
                error = f": {asset.error}" if asset.error else ""
                say(f"asset {asset.idx} is {asset.state}{error}", err=True)
        failures = len(wanted) - len(archived)
        if links:
            for asset in archived:
                say(_link(services, asset))
        elif output == STDOUT:
            _write(services, archived)
        else:
            failures += _save(services, archived, output, overwrite=overwrite)
    finally:
        services.close()
    sys.exit(SOME_FAILED if failures else 0)


def _wanted(services: Services, job: Job, index: int | None) -> list[Asset]:
    assets = services.queries.assets([job.ref])[job.ref]
    if not assets:
        why = " ".join(filter(None, [job.state, job.reason, job.message]))
        raise ReceiverError(f"{job.ref} has no pictures: it is {why}")
    found = [asset for asset in assets if index in (None, asset.idx)]
    if not found:
        raise ReceiverError(f"{job.ref} has no asset {index}, but {len(assets)}, counted from 0")
    return found


def _link(services: Services, asset: Asset) -> str:
    settings = services.settings
    needs_address = settings.public_url is None and settings.archive_url.startswith("file://")
    if needs_address and settings.archive_public_url is None:
        raise ReceiverError(
            "there are no links: the archive is a directory, and neither PUBLIC_URL nor "
            "ARCHIVE_PUBLIC_URL is set"
        )
    return services.links.link(asset, settings.public_url or "").url


def _write(services: Services, archived: list[Asset]) -> None:
    for asset in archived:
        source = partial(services.store.open, asset.key or "")
        saving.copy(source, asset.sha256 or "", sys.stdout.buffer)
        sys.stdout.buffer.flush()


def _save(services: Services, archived: list[Asset], output: str, *, overwrite: bool) -> int:
    """Save the files and print their paths; return how many could not be saved."""
    target, failures = Path(output or "."), 0
    in_folder = target.is_dir() or output.endswith("/") or len(archived) > 1
    if in_folder and archived:
        saving.make_folder(target)
    for asset in archived:
        path = target / saving.file_name(asset.ref, asset.key or "") if in_folder else target
        source = partial(services.store.open, asset.key or "")
        try:
            new = saving.save(source, asset.sha256 or "", path, overwrite=overwrite)
        except ReceiverError as error:
            say(str(error), err=True)
            failures += 1
        else:
            say(str(path))
            if not new:
                say(f"{path} was there already", err=True)
    return failures
