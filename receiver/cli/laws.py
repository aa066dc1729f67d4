"""``receiver audit``: do the books agree, and is everything where they say."""

import sys

import click
from rich.table import Table

from receiver.cli.frame import SOME_FAILED, console, errors_told, load
from receiver.ledger.reports import Audit
from receiver.services import Services


@click.command()
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
