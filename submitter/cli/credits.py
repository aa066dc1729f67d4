"""The command ``submitter credits``: credits left at GRSAI, and job counts by model."""

import sys
from contextlib import closing
from dataclasses import asdict

import click

from receiver.cli.base import (
    SOME_FAILED,
    WRONG_USAGE,
    load,
    reports_errors,
    say,
    say_json,
)
from receiver.cli.terminal import new_table, print_table
from receiver.errors import ConfigurationError, ProviderError
from receiver.ledger.queries.totals import Usage
from receiver.model import Provider
from receiver.services import Services
from receiver.settings import Settings
from submitter.submit import Submitter

NO_KEY = "GRSAI_API_KEY: not set; GRSAI reports the credits left only for a key"
_COUNTS = ("submitted", "archived", "refunded", "refused", "failed", "expired", "in_flight")


@click.command()
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help='Print one object: {"credits", "models"}; credits is null if GRSAI could not be asked. '
    'If keys of other providers are set, "providers" has the credits of each.',
)
@reports_errors
def credits(*, as_json: bool) -> None:  # noqa: A001 - the command's name; only interactive shells have the other one
    """Print the credits left at GRSAI, and job counts by model.

    For each model it shows how many jobs ended in which way. Exit status 1 if GRSAI could not be
    asked, 2 without a key; the table is printed in any case.
    """
    settings = load()
    left, used, status = _elsewhere(settings) if settings.receiver_url else _here(settings)
    _print_json(left, used) if as_json else _print_table(left, used)
    sys.exit(status)


def _elsewhere(settings: Settings) -> tuple[dict[str, float | None], list[Usage], int]:
    """Return the credits, the job counts and the exit status, by the service at RECEIVER_URL."""
    with Submitter(settings) as submitter:
        balances, models = submitter.transport.credits()
    # GRSAI's key may be missing where others are set.
    is_alone = len(balances) == 1
    errors = [
        one["error"] for one in balances if is_alone or not one["error"].startswith("GRSAI_API_KEY")
    ]
    for error in filter(None, errors):
        say(error, err=True)
    left = {one["provider"]: one["credits"] for one in balances}
    return left, [Usage(**model) for model in models], SOME_FAILED if any(errors) else 0


def _here(settings: Settings) -> tuple[dict[str, float | None], list[Usage], int]:
    """Return the same by this machine's ledger and keys."""
    with closing(Services(settings)) as services:
        used = _usage(services)
        others = [name for name in settings.accounts() if name is not Provider.GRSAI]
        left, status = _credits(services, [Provider.GRSAI, *others])
    return left, used, status


def _credits(services: Services, providers: list[Provider]) -> tuple[dict[str, float | None], int]:
    """Return the credits left at each provider, None where it does not say, and the exit status."""
    left: dict[str, float | None] = dict.fromkeys(providers)
    status = 0
    for provider in providers:
        client = services.clients.get(provider)
        if client is None:
            if len(providers) == 1:
                say(NO_KEY, err=True)
                status = WRONG_USAGE
            continue
        try:
            left[provider] = client.credits()
        except ProviderError as error:
            say(str(error), err=True)
            status = SOME_FAILED
    return left, status


def _usage(services: Services) -> list[Usage]:
    """Return the job counts; none, and a note, if there is no ledger here."""
    try:
        return services.open(to_look=True).totals.usage()
    except ConfigurationError as error:
        say(str(error), err=True)
        return []


def _print_json(left: dict[str, float | None], used: list[Usage]) -> None:
    whole = {str(provider): _whole(value) for provider, value in left.items()}
    models = [asdict(usage) for usage in used]
    found: dict[str, object] = {"credits": whole[Provider.GRSAI], "models": models}
    if len(whole) > 1:
        found["providers"] = whole
    say_json(found)


def _print_table(left: dict[str, float | None], used: list[Usage]) -> None:
    for provider, value in left.items():
        if value is not None:
            at = "" if provider == Provider.GRSAI else f" at {provider}"
            say(f"{_whole(value):,} credits left{at}")
    if sys.stdout.isatty():  # a table of these columns and of models' names needs 100 columns
        for usage in used:
            say(_label(usage))
            say(f"  {_counts(usage)}")
    else:
        table = new_table("model", *_COUNTS)
        for usage in used:
            table.add_row(_label(usage), *(str(getattr(usage, name)) for name in _COUNTS))
        print_table(table)
    say("refunded: failed at the provider; refused: not accepted by the provider;")
    say("failed: accepted, but without a usable picture")


def _label(usage: Usage) -> str:
    model = usage.model or "(posted by hand)"
    return model if usage.provider == Provider.GRSAI else f"{model} ({usage.provider})"


def _counts(usage: Usage) -> str:
    """Return a model's counts in words, without those that are 0."""
    ends = [
        f"{count:,} {name.replace('_', ' ')}"
        for name in _COUNTS[1:]
        if (count := getattr(usage, name))
    ]
    return f"{usage.submitted:,} submitted: {', '.join(ends)}"


def _whole(left: float | None) -> float | int | None:
    """Return whole credits as an int, so that they print without a fraction."""
    return int(left) if left is not None and left.is_integer() else left
