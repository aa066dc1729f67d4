"""The destinations of events: the entries of EVENT_URLS, read strictly.

``https://…`` is a webhook, ``sqs://host/account/queue`` and ``sns:arn:…`` are queues and topics of
AWS, ``log:`` is our own log. A fragment limits an entry to some event types:
``https://example.com/hook#job.archived+job.failed``.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

from receiver.errors import AddressRefusedError
from receiver.ledger.event_queue import JOB_WEBHOOKS
from receiver.model import EventType
from receiver.net.policy import Target, read_url

REMEDY = (
    "write https://host/path, sqs://host/account/queue, sns:arn:… or log:, "
    "with #type+type behind it to narrow it"
)

_QUEUE = re.compile(r"[a-z0-9.-]+(?::\d+)?/\d{12}/[\w-]{1,80}(\.fifo)?", re.ASCII)
_TOPIC = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[\w-]{1,256}(\.fifo)?", re.ASCII)


class DestinationKind(StrEnum):
    """The kind of a destination; it decides the transport."""

    WEBHOOK = "webhook"
    SQS = "sqs"
    SNS = "sns"
    LOG = "log"


@dataclass(frozen=True, slots=True)
class Destination:
    """One entry of EVENT_URLS.

    ``name`` is shown and stored in the ledger. ``address`` is a URL, a topic's ARN, or "" for the
    log. A webhook's path may be a secret, so its name has only the host and a digest of the URL.
    """

    kind: DestinationKind
    name: str
    address: str
    types: tuple[EventType, ...]


# Stands for the webhooks of all jobs that name one; the jobs have the addresses.
OF_JOBS = Destination(DestinationKind.WEBHOOK, JOB_WEBHOOKS, "", tuple(EventType))


def read_destination(entry: str) -> Destination:
    """Read one entry.

    Raise ValueError that says what is wrong and what to write, without repeating the entry.
    """
    address, _, fragment = entry.partition("#")
    types = _types(fragment) if fragment else tuple(EventType)
    if address == "log:":
        return Destination(DestinationKind.LOG, "log:", "", types)
    scheme, _, rest = address.partition(":")
    if scheme == "sns" and _TOPIC.fullmatch(rest):
        return Destination(DestinationKind.SNS, address, rest, types)
    if scheme == "sqs" and _QUEUE.fullmatch(rest.removeprefix("//")):
        return Destination(DestinationKind.SQS, address, f"https:{rest}", types)
    if scheme not in ("http", "https"):
        raise ValueError(f"one of its entries is none we know; {REMEDY}")
    try:
        target = read_url(address)
    except AddressRefusedError as error:
        raise ValueError(f"one of its entries is {error}; {REMEDY}") from error
    return Destination(DestinationKind.WEBHOOK, webhook_name(target), target.url, types)


def read_destinations(entries: tuple[str, ...]) -> tuple[Destination, ...]:
    """Read all entries. Raise ValueError for the first wrong one, or for a duplicate."""
    found = tuple(map(read_destination, entries))
    if len({destination.name for destination in found}) < len(found):
        raise ValueError(
            "the same place stands there twice; name it once, with all its types behind one #"
        )
    return found


def webhook_name(target: Target) -> str:
    """Return how a webhook is shown: its host, and a digest of the URL that may be a secret."""
    digest = sha256(target.url.encode()).hexdigest()[:8]
    return f"{target.scheme}://{target.authority} ({digest})"


def _types(fragment: str) -> tuple[EventType, ...]:
    words = fragment.split("+")
    if not set(words) <= set(EventType):
        raise ValueError(f"behind the # stand types joined by +, of {', '.join(EventType)}")
    return tuple(kind for kind in EventType if kind in words)
