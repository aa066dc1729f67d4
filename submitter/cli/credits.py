"""The command ``submitter credits``: credits left at GRSAI, and job counts by model."""

import json
import sys
from contextlib import closing
from dataclasses import asdict

import click
from rich.table import Table

from receiver.cli.base import SOME_FAILED, WRONG_USAGE, load, print_table, reports_errors
from receiver.errors import ConfigurationError, ProviderError
from receiver.ledger.queries.totals import Usage
from receiver.model import Provider
from receiver.services import Services

NO_KEY = "GRSAI_API_KEY: not set; GRSAI reports the credits left only for a key"
_COUNTS = ("submitted", "archived", "refunded", "refused", "failed", "expired", "in_flight")


@click.command()
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help='Print one object: {"credits", "models"}; credits is null if GRSAI could not be asked.',
)
@reports_errors
def credits(*, as_json: bool) -> None:  # noqa: A001 - the command's name; only interactive shells have the other one
    """Print the credits left at GRSAI, and job counts by model.

    For each model it shows how many jobs ended in which way. Exit status 1 if GRSAI could not be
    asked, 2 without a key; the table is printed in any case.
    """
    settings = load()
    with closing(Services(settings)) as services:
        used = _usage(services)
        left, status = None, 0
        client = services.clients.get(Provider.GRSAI)
        if client is None:
            click.echo(NO_KEY, err=True)
            status = WRONG_USAGE
        else:
            try:
                left = client.credits()
            except ProviderError as error:
                click.echo(str(error), err=True)
                status = SOME_FAILED
    _print_json(left, used) if as_json else _print_table(left, used)
    sys.exit(status)


def _usage(services: Services) -> list[Usage]:
    """Return the job counts; none, and a note, if there is no ledger here."""
    try:
        return services.open(to_look=True).totals.usage()
    except ConfigurationError as error:
        click.echo(str(error), err=True)
        return []


def _print_json(left: float | None, used: list[Usage]) -> None:
    models = [asdict(usage) for usage in used]
    click.echo(json.dumps({"credits": _whole(left), "models": models}, ensure_ascii=False))


def _print_table(left: float | None, used: list[Usage]) -> None:
    if left is not None:
        click.echo(f"{_whole(left):,} credits left")
    table = Table("model")
    for name in _COUNTS:
        table.add_column(name.replace("_", " "), justify="right")
    for usage in used:
        model = usage.model or "(posted by hand)"
        label = model if usage.provider == "grsai" else f"{model} ({usage.provider})"
        table.add_row(label, *(str(getattr(usage, name)) for name in _COUNTS))
    print_table(table)
    click.echo(
        "refunded: failed at the provider; refused: not accepted by the provider; "
        "failed: accepted, but without a usable picture"
    )


def _whole(left: float | None) -> float | int | None:
    """Return whole credits as an int, so that they print without a fraction."""
    return int(left) if left is not None and left.is_integer() else left
