"""What is kept of deliveries, and what becomes of those that were not believed when they came.

A ticket in wrong hands, or a provider gone mad, must not fill the disk: of one job so much is kept and no more.
"""

from hashlib import sha256

import structlog
from sqlalchemy import Connection

from receiver.errors import UnreadableError
from receiver.ledger import writes
from receiver.model import Decision, Delivery, Outcome, Report, Source
from receiver.providers.grsai import protocol as grsai

log = structlog.get_logger(__name__)

# Of one job's deliveries so many are kept, and so many bytes of bodies.
MOST_KEPT = 200
MOST_BYTES = 16 * 1024 * 1024


def keep(connection: Connection, delivery: Delivery, verdict: Decision) -> None:
    """Keep a delivery with what it was taken for. A callback that decides nothing is not, once its job has enough of them."""
    if (
        delivery.source is Source.CALLBACK
        and verdict is not Decision.ENDED
        and is_full(connection, delivery)
    ):
        log.warning(
            "delivery not kept, its job has enough of them",
            ref=delivery.ref,
            verdict=verdict,
            size=len(delivery.body),
        )
        return
    writes.insert_delivery(connection, delivery, sha256(delivery.body).hexdigest(), verdict)


def is_full(connection: Connection, delivery: Delivery) -> bool:
    """Say whether the delivery's job has enough of them."""
    count, size = writes.weigh_deliveries(connection, delivery.ref)
    return count >= MOST_KEPT or size + len(delivery.body) > MOST_BYTES


def settle(connection: Connection, ref: str, truth: Report) -> None:
    """Judge the callbacks that waited for the provider's own answer by it: one that says otherwise is marked, and told."""
    for number, body in writes.find_unconfirmed(connection, ref):
        verdict = weigh(body, truth)
        if verdict is Decision.CONTRADICTION:
            log.warning(
                "callback disagrees with the provider's own answer", ref=ref, delivery=number
            )
        writes.set_verdict(connection, number, verdict)


def compare(connection: Connection, ref: str, told: Report) -> Decision:
    """Judge a callback that came after the provider's own answer: does it name the results we know."""
    known = [url.partition("?")[0] for url in writes.asset_urls(connection, ref)]
    if not told.results or _places(told) == known:
        return Decision.DUPLICATE
    log.warning("callback disagrees with the provider's own answer", ref=ref)
    return Decision.CONTRADICTION


def weigh(body: bytes, truth: Report) -> Decision:
    """Say what a callback was worth, now that the provider itself was asked."""
    try:
        told = grsai.read_report(body)
    except UnreadableError:
        return Decision.UNREADABLE
    if told.outcome is Outcome.RUNNING:
        return Decision.LATE
    return (
        Decision.DUPLICATE
        if (told.outcome, _places(told)) == (truth.outcome, _places(truth))
        else Decision.CONTRADICTION
    )


def _places(report: Report) -> list[str]:
    """Return where a report's results are, without the queries: some hosts sign anew for each answer."""
    return [result.url.partition("?")[0] for result in report.results]
