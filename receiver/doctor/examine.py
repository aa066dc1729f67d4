"""Runs all checks of `receiver doctor`, and turns each result into a finding."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from receiver.doctor import checks, destinations, last_result, machine, self_call
from receiver.doctor.checks import NothingToCheck, Trouble
from receiver.model import Provider
from receiver.services import Services


class Status(StrEnum):
    """The result of a check."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"  # there was nothing to check


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; ``remedy`` says what to do if it failed."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


def examine(services: Services) -> Iterator[Finding]:
    """Yield the finding of each check that needs a valid configuration."""
    yield _finding("ledger", lambda: checks.ledger(services))
    yield _finding("archive", lambda: checks.archive(services.store))
    yield _finding("workers", lambda: machine.workers(services))
    yield _finding("secrets", lambda: checks.secrets(services))
    yield _finding("disk", lambda: machine.disk(services))
    grsai = services.clients.get(Provider.GRSAI)
    yield _finding("provider", lambda: checks.provider(services.settings, grsai))
    for name in services.settings.accounts():
        client = services.clients.get(name)
        if client is not None and name is not Provider.GRSAI:
            check = partial(checks.other_provider, services, client)
            yield _finding(name.value, check)
    yield _finding("clock", lambda: checks.clock(services.settings.grsai_base_url))
    yield _finding("events", lambda: destinations.events(services))
    yield _finding("public URL", lambda: _call_ourselves(services))


def _finding(name: str, check: Callable[[], str]) -> Finding:
    """Return a finding from what a check returns or raises."""
    try:
        return Finding(name, Status.OK, check())
    except NothingToCheck as reason:
        return Finding(name, Status.SKIPPED, str(reason))
    except Trouble as trouble:
        return Finding(name, Status.FAILED, str(trouble), trouble.remedy)


def _call_ourselves(services: Services) -> str:
    """Call our own callback, and save the result for submits that want callbacks."""
    url, folder = services.settings.public_url, services.settings.data_dir
    if url is None:
        raise NothingToCheck(
            "PUBLIC_URL is not set: results are polled, no callback can be requested"
        )
    try:
        detail = self_call.call(
            url,
            services.tickets,
            services.settings.callback_max_bytes,
            provider=services.settings.grsai_base_url,
        )
    except Trouble as trouble:
        last_result.keep(folder, url, f"{trouble}; {trouble.remedy}")
        raise
    last_result.keep(folder, url, "")
    return detail
