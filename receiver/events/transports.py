"""Transports of events: signed webhooks (Standard Webhooks) and our log; AWS is in ``aws``."""

import http.client
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Protocol

import structlog
from standardwebhooks import Webhook

from receiver.errors import AddressRefusedError, EventNotDeliveredError, FetchError
from receiver.events.destinations import Destination, DestinationKind
from receiver.events.event import Event
from receiver.net.client import SMALL_BODY, HttpClient, HttpRequest
from receiver.net.connection import Deadline, translate_network_errors
from receiver.net.policy import read_url
from receiver.net.response import Response

log = structlog.get_logger(__name__)

# Seconds for one attempt, from name resolution to the head of the response, and for one wait in it.
TIMEOUT, READ_TIMEOUT = 15.0, 10.0
# Bytes of a response's body; what is longer is not read.
MAX_RESPONSE = 64 * 1024
# Bytes of it that are shown after a test.
_SHOWN = 200
# The longest Retry-After that we obey, in seconds.
MAX_RETRY_AFTER = 3600.0

# Statuses that mean that the destination is unavailable, not that it refuses this event.
_TRANSIENT_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


class Transport(Protocol):
    """How events are sent to one destination."""

    def send(self, event: Event, body: str) -> str:
        """Return what the destination answered when it has accepted the event.

        Raise EventNotDeliveredError if it has not.
        """


class WebhookTransport:
    """Posts to one URL if the policy allows it. Redirects are not followed.

    Every secret signs, so that secrets can be rotated.
    """

    def __init__(
        self,
        address: str,
        client: HttpClient,
        secrets: Sequence[str],
        now: Callable[[], float],
    ) -> None:
        self._target = read_url(address)
        self._client = client
        self._signers = [Webhook(secret) for secret in secrets]
        self._now = now

    def send(self, event: Event, body: str) -> str:
        """Post the event; see Transport."""
        host = self._target.host
        try:
            self._client.policy.check_url(self._target.url)
            with translate_network_errors(host):
                status, retry_after, answer = self._post(event, body)
        except AddressRefusedError as error:
            raise EventNotDeliveredError(str(error)) from error
        except FetchError as error:
            raise EventNotDeliveredError(str(error), away=True) from error
        if not 200 <= status < 300:  # noqa: PLR2004 - HTTP's successes
            aside = (
                "; redirects are not followed, name the last address instead"
                if 300 <= status < 400  # noqa: PLR2004 - as above
                else ""
            )
            raise EventNotDeliveredError(
                f"{host} answered {status}{aside}",
                away=status in _TRANSIENT_STATUSES,
                status=status,
                wait=retry_after,
                answer=answer,
            )
        return f"{status} {answer}".strip()

    def _post(self, event: Event, body: str) -> tuple[int, float, str]:
        """Send one request.

        Return the status, the Retry-After in seconds and the beginning of a small body.
        """
        moment = datetime.fromtimestamp(int(self._now()), UTC)
        data = body.encode()
        headers = {
            "User-Agent": "webhook-image-receiver",
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            "webhook-id": event.id,
            "webhook-timestamp": str(int(moment.timestamp())),
            "webhook-signature": " ".join(
                signer.sign(event.id, moment, body) for signer in self._signers
            ),
        }
        with self._client.exchange(
            HttpRequest("POST", self._target, headers, data),
            Deadline(time.monotonic, TIMEOUT, READ_TIMEOUT),
            max_body=MAX_RESPONSE,
        ) as response:
            retry_after = _retry_after(response.headers.get("Retry-After", ""))
            return response.status, retry_after, _beginning(response)


def _beginning(response: Response) -> str:
    """Return the beginning of a small body as text; it is read anyway to keep the connection."""
    if not response.length or response.length > SMALL_BODY:
        return ""
    with suppress(OSError, http.client.HTTPException):
        return response.read(_SHOWN).decode(errors="replace").strip()
    return ""


def _retry_after(header: str) -> float:
    """Return the seconds of a Retry-After header; 0 for a date or an absurd number."""
    valid = header.isascii() and header.isdigit() and len(header) < 10  # noqa: PLR2004 - digits
    return min(float(header), MAX_RETRY_AFTER) if valid else 0.0


class LogTransport:
    """Writes events to the service's log."""

    def send(self, event: Event, body: str) -> str:
        """Write a line; see Transport."""
        log.info("event sent", type=event.type, ref=event.ref, id=event.id, body=body)
        return "written to the log"


def transport_for(
    destination: Destination,
    client: HttpClient,
    secrets: Sequence[str],
    now: Callable[[], float],
) -> Transport:
    """Return the transport to a destination. Nothing is connected yet."""
    if destination.kind is DestinationKind.WEBHOOK:
        return WebhookTransport(destination.address, client, secrets, now)
    if destination.kind is DestinationKind.LOG:
        return LogTransport()
    # Imported here, because boto3 costs 0.1 s that other destinations do not need.
    from receiver.events.aws import AwsTransport  # noqa: PLC0415

    return AwsTransport(destination)
