"""Unconfirmed callbacks, compared with the provider's own answer."""

from collections.abc import Callable

import structlog
from sqlalchemy import Connection

from receiver.errors import UnreadableError
from receiver.ledger import deliveries
from receiver.ledger.rows import Job
from receiver.model import Decision, Outcome, Provider, Report
from receiver.providers.registry import READERS

log = structlog.get_logger(__name__)


# Compare unconfirmed callbacks with the provider's own answer.

_DISAGREES = "callback disagrees with the provider's own answer"


def settle_unconfirmed(connection: Connection, job: Job, answer: Report) -> None:
    """Decide about the callbacks that waited for the provider's own answer."""
    read_report = READERS[Provider.of(job.provider)].read_report
    for number, body in deliveries.find_unconfirmed(connection, job.ref):
        decision = _decide_unconfirmed(body, answer, read_report)
        if decision is Decision.CONTRADICTION:
            log.warning(_DISAGREES, ref=job.ref, delivery=number)
        deliveries.update_decision(connection, number, decision)


def _decide_unconfirmed(
    body: bytes, answer: Report, read_report: Callable[[bytes], Report]
) -> Decision:
    try:
        report = read_report(body)
    except UnreadableError:
        return Decision.UNREADABLE
    if report.outcome is Outcome.RUNNING:
        return Decision.LATE
    if (report.outcome, _locations(report)) == (answer.outcome, _locations(answer)):
        return Decision.DUPLICATE
    return Decision.CONTRADICTION


def compare_with_known(connection: Connection, ref: str, report: Report) -> Decision:
    """Decide whether a callback after the provider's answer names the results that we know."""
    known = [url.partition("?")[0] for url in deliveries.asset_urls(connection, ref)]
    if not report.results or _locations(report) == known:
        return Decision.DUPLICATE
    log.warning(_DISAGREES, ref=ref)
    return Decision.CONTRADICTION


def _locations(report: Report) -> list[str]:
    """Return the URLs without their queries: some hosts sign them again for each answer."""
    return [result.url.partition("?")[0] for result in report.results]
