"""The command ``submitter credits``: what is left at GRSAI, and what became of the jobs of each model."""

import json
import sys
from contextlib import closing
from dataclasses import asdict

import click
from rich.table import Table

from receiver.cli.base import SOME_FAILED, WRONG_USAGE, console, load, reports_errors
from receiver.errors import ProviderError
from receiver.ledger.queries.totals import Usage
from receiver.services import Services

NO_KEY = "GRSAI_API_KEY: not set; without it GRSAI does not tell the credits left"


@click.command()
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help='One object: {"credits", "models"}; credits is null where they could not be asked for.',
)
@reports_errors
def credits(*, as_json: bool) -> None:  # noqa: A001 - the command's name; only interactive shells have the other one
    """Tell the credits left at GRSAI and what became of each model's jobs: archived, refunded, refused, failed, expired, in flight.

    Exit status 1 if GRSAI could not be asked, 2 without its key; the table comes all the same.
    """
    settings = load()
    with closing(Services(settings).open()) as services:
        used = services.totals.usage()
        left, status = None, 0
        if services.grsai is None:
            click.echo(NO_KEY, err=True)
            status = WRONG_USAGE
        else:
            try:
                left = services.grsai.credits(settings.grsai_base_url)
            except ProviderError as error:
                click.echo(str(error), err=True)
                status = SOME_FAILED
    _tell_as_json(left, used) if as_json else _tell(left, used)
    sys.exit(status)


def _tell_as_json(left: float | None, used: list[Usage]) -> None:
    click.echo(
        json.dumps(
            {"credits": _plain(left), "models": [asdict(usage) for usage in used]},
            ensure_ascii=False,
        )
    )


def _tell(left: float | None, used: list[Usage]) -> None:
    if left is not None:
        click.echo(f"{_plain(left):,} credits left")
    table = Table("model")
    figures = ("submitted", "archived", "refunded", "refused", "failed", "expired", "in_flight")
    for name in figures:
        table.add_column(name.replace("_", " "), justify="right")
    for usage in used:
        model = usage.model or "(posted by hand)"
        where = model if usage.provider == "grsai" else f"{model} ({usage.provider})"
        table.add_row(where, *(str(getattr(usage, name)) for name in figures))
    console().print(table)
    click.echo(
        "refunded: failed at the provider; refused: never taken; failed: taken, but without a usable picture"
    )


def _plain(left: float | None) -> float | int | None:
    """Write whole credits without a fraction."""
    return int(left) if left is not None and left.is_integer() else left
