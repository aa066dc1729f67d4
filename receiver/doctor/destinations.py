"""The check of where events go: addresses that are refused, and deliveries that fail."""

import time
from collections.abc import Iterator

from receiver import clock
from receiver.doctor.checks import NothingToCheck, Trouble
from receiver.errors import LedgerError, ReceiverError
from receiver.events.destinations import Destination, DestinationKind
from receiver.ledger.event_queue import JOB_WEBHOOKS
from receiver.ledger.queries.events import DestinationStatus
from receiver.net.connection import Deadline, SafeConnector, translate_network_errors
from receiver.services import Services

_TIMEOUT = 5.0  # seconds to resolve one name
_REMEDY = (
    "repair the destination, or correct EVENT_URLS or FETCH_ALLOW; `receiver events --test NAME` "
    "sends a test event, `receiver resend --waiting` sends what waits at once"
)
_NO_SECRET = (
    f"{JOB_WEBHOOKS}: jobs name webhooks, but EVENT_SECRET is not set, so they get no events; set "
    f"it again, or delete them with `receiver events --forget '{JOB_WEBHOOKS}'`"
)


def events(services: Services) -> str:
    """Resolve the address of every webhook, and look for deliveries that fail."""
    configured, served = services.settings.destinations, services.settings.served
    try:
        rows = {row.destination: row for row in services.events.destinations()}
    except LedgerError as error:
        raise NothingToCheck("the ledger cannot be read") from error
    if not configured and JOB_WEBHOOKS not in rows:
        raise NothingToCheck("EVENT_URLS is not set: no events are sent")
    connector = SafeConnector(services.settings.event_policy())
    troubles = list(_refused(configured, connector))
    troubles += [_failing(row) for name, row in rows.items() if name in served and row.failing]
    if JOB_WEBHOOKS in rows and JOB_WEBHOOKS not in served:
        troubles.append(_NO_SECRET)
    if troubles:
        raise Trouble("; ".join(troubles), _REMEDY)
    number = len(configured) + (JOB_WEBHOOKS in rows)
    waiting = sum(row.waiting for name, row in rows.items() if name in served)
    aside = sum(row.set_aside for row in rows.values())
    rest = f", {aside} events set aside (`receiver events` shows them)" if aside else ""
    return f"{number} destinations, no delivery fails, {waiting} wait{rest}"


def _refused(configured: tuple[Destination, ...], connector: SafeConnector) -> Iterator[str]:
    """Yield why the address of a webhook cannot be used."""
    for to in configured:
        if to.kind is not DestinationKind.WEBHOOK:
            continue
        try:
            target = connector.policy.check_url(to.address)
            with translate_network_errors(target.host):
                connector.addresses(target, Deadline(time.monotonic, _TIMEOUT, _TIMEOUT))
        except ReceiverError as error:
            yield f"{to.name}: {error}"


def _failing(row: DestinationStatus) -> str:
    age = (
        ""
        if row.oldest_at is None
        else f", the oldest is {clock.rough(clock.now() - row.oldest_at)} old"
    )
    number = f"{row.failing} deliveries fail" if row.failing > 1 else "a delivery fails"
    return f"{row.destination}: {number}{age}, attempt {row.attempts}: {row.last_error}"
