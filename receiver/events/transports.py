"""Ways to a destination: a webhook signed by the Standard Webhooks rules, our own log; those to AWS lie in ``aws``."""

import http.client
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, Protocol, cast

import structlog
from standardwebhooks import Webhook

from receiver.errors import AddressRefusedError, EventNotDeliveredError, FetchError
from receiver.events.destinations import Destination, Kind
from receiver.events.event import Event
from receiver.net.connection import (
    MAX_HEAD,
    Deadline,
    DeadlineSocket,
    SafeConnector,
    translate_network_errors,
)
from receiver.net.policy import read_url

log = structlog.get_logger(__name__)

# Seconds for one attempt from the look-up to the head of the answer, and for one silence in it.
TIMEOUT, READ_TIMEOUT = 15.0, 10.0
# Seconds we wait longer because a destination asks for it (Retry-After).
MAX_RETRY_AFTER = 3600.0

_REQUEST = (
    "POST {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: webhook-image-receiver\r\nContent-Type: application/json\r\n"
    "Content-Length: {length}\r\nwebhook-id: {id}\r\nwebhook-timestamp: {timestamp}\r\nwebhook-signature: {signature}\r\n"
    "Connection: close\r\n\r\n"
)
# Statuses that say nothing about the event: come again later.
_TRANSIENT_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


class Transport(Protocol):
    """How one destination is told."""

    def send(self, event: Event, body: str) -> None:
        """Return once the destination took the event; raise NotToldError."""


class WebhookTransport:
    """Posts to one address, only where the policy allows, and follows no redirect; signs with every secret, so that they can be rotated."""

    def __init__(
        self,
        address: str,
        connector: SafeConnector,
        secrets: Sequence[str],
        now: Callable[[], float],
    ) -> None:
        self._target = read_url(address)
        self._connector = connector
        self._signers = [Webhook(secret) for secret in secrets]
        self._now = now

    def send(self, event: Event, body: str) -> None:
        """Post the event; see Way."""
        host = self._target.host
        try:
            self._connector.policy.check_url(self._target.url)
            with translate_network_errors(host):
                status, retry_after = self._post(event, body)
        except AddressRefusedError as error:
            raise EventNotDeliveredError(str(error)) from error
        except FetchError as error:
            raise EventNotDeliveredError(str(error), away=True) from error
        if not 200 <= status < 300:  # noqa: PLR2004 - HTTP's successes
            aside = (
                "; redirects are not followed, name the last address in EVENT_URLS"
                if 300 <= status < 400  # noqa: PLR2004 - as above
                else ""
            )
            raise EventNotDeliveredError(
                f"{host} answered {status}{aside}",
                away=status in _TRANSIENT_STATUSES,
                wait=retry_after,
            )

    def _post(self, event: Event, body: str) -> tuple[int, float]:
        """Send one request over a connection of its own; return the answer's status and the wait it asks for. Its body is not read."""
        deadline = Deadline(time.monotonic, TIMEOUT, READ_TIMEOUT)
        data, target = body.encode(), self._target
        moment = datetime.fromtimestamp(int(self._now()), UTC)
        head = _REQUEST.format(
            path=target.path,
            authority=target.authority,
            length=len(data),
            id=event.id,
            timestamp=int(moment.timestamp()),
            signature=" ".join(signer.sign(event.id, moment, body) for signer in self._signers),
        )
        with self._connector.connect(target, deadline) as sock:
            sock.settimeout(deadline.remaining())
            sock.sendall(head.encode("ascii") + data)
            with closing(
                http.client.HTTPResponse(
                    cast("Any", DeadlineSocket(sock, deadline, MAX_HEAD)), method="POST"
                )
            ) as response:
                response.begin()
                return response.status, _retry_after(response.headers.get("Retry-After", ""))


def _retry_after(retry_after: str) -> float:
    return (
        min(float(retry_after), MAX_RETRY_AFTER)
        if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 10  # noqa: PLR2004 - no date, no joke
        else 0.0
    )


class LogTransport:
    """Writes events to the service's log."""

    def send(self, event: Event, body: str) -> None:
        """Write a line; see Way."""
        log.info("event", type=event.type, ref=event.ref, id=event.id, body=body)


def transport_for(
    destination: Destination,
    connector: SafeConnector,
    secrets: Sequence[str],
    now: Callable[[], float],
) -> Transport:
    """Return the way to a destination; nothing is connected yet."""
    if destination.kind is Kind.WEBHOOK:
        return WebhookTransport(destination.address, connector, secrets, now)
    if destination.kind is Kind.LOG:
        return LogTransport()
    from receiver.events.aws import AwsTransport  # noqa: PLC0415 - 0.1 s of import that others do not need

    return AwsTransport(destination)
