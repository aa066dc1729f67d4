"""``receiver doctor``: check everything, and say what to do where a check fails."""

import os
import sys
from collections.abc import Iterable
from dataclasses import asdict
from itertools import chain

import click

from receiver import data_dir
from receiver.cli.base import SOME_FAILED, WRONG_USAGE, say, say_json
from receiver.doctor.examine import Finding, Status, examine
from receiver.errors import ConfigurationError, LedgerError
from receiver.services import Services
from receiver.settings import Settings
from receiver.telemetry import logs

_MARKS = {Status.OK: "✓", Status.FAILED: "✗", Status.SKIPPED: "–"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="All findings as one JSON object.")
def doctor(*, as_json: bool) -> None:
    """Check the configuration and everything that it names.

    It checks configuration, ledger, archive, workers, disk space, provider, clock and the
    destinations of events, and calls our callback at PUBLIC_URL. Exit status 0: all is well, 1: a
    check failed, 2: the configuration is wrong. Each failure names its remedy.
    """
    data_dir.write_for_owner_only()
    found: list[Finding] = []
    try:
        settings = Settings.load(os.environ)
        logs.configure(settings.log_level, settings.log_format, settings.secrets())
        services = Services(settings)
        services.open()
        configuration = Finding(
            "configuration",
            Status.OK,
            f"DATA_DIR {settings.data_dir}, archive {settings.archive_url}",
        )
        _report(chain([configuration], examine(services)), found, as_json=as_json)
        services.close()
    except ConfigurationError as error:
        mistakes = (
            Finding("configuration", Status.FAILED, *_split(mistake)) for mistake in error.mistakes
        )
        _report(mistakes, found, as_json=as_json)
    except LedgerError as error:
        remedy = "repair that, then start again"
        _report([Finding("ledger", Status.FAILED, str(error), remedy)], found, as_json=as_json)
    failed = [finding.name for finding in found if finding.status is Status.FAILED]
    if as_json:
        report = {"ok": not failed, "checks": [asdict(finding) for finding in found]}
        say_json(report)
    sys.exit(WRONG_USAGE if "configuration" in failed else SOME_FAILED if failed else 0)


def _split(mistake: str) -> tuple[str, str]:
    """Split a mistake from its remedy, which follows the last semicolon."""
    text, semicolon, remedy = mistake.rpartition("; ")
    return (text, remedy) if semicolon else (mistake, "correct it and start again")


def _report(findings: Iterable[Finding], found: list[Finding], *, as_json: bool) -> None:
    """Add findings to ``found`` and, unless as JSON later, print each at once with its remedy."""
    for finding in findings:
        found.append(finding)
        if as_json:
            continue
        say(f"{_MARKS[finding.status]} {finding.name:<13}  {finding.detail}")
        if finding.remedy:
            say(f"{'':17}{finding.remedy}")
