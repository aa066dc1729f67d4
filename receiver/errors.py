"""Every error of the service, in one tree.

``permanent`` is True if trying again cannot help. Errors of libraries are converted to these once,
where they appear, with ``raise … from``.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

# How pydantic writes a member of an Enum, whose value is what a person would write.
_ENUM_MEMBER = re.compile(r"<\w+\.\w+: ('[^']*')>")
# In place of pydantic's "valid dictionary": what a person writes is JSON.
_NO_OBJECT = 'write a JSON object, such as {"order": 4711}'


class ReceiverError(Exception):
    """Any error that the service reports; its text is for a person."""

    permanent = False


class ConfigurationError(ReceiverError):
    """The environment or the command line is wrong; ``mistakes`` has each fault with its remedy."""

    permanent = True

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = mistakes


class RequestMistakeError(ConfigurationError):
    """Only the request is wrong, no setting is missing: a corrected one can be posted."""


class TicketError(ReceiverError):
    """The ticket of a callback URL was not signed by us."""

    permanent = True


class TicketExpiredError(TicketError):
    """The ticket is ours, and older than TICKET_LIFETIME; ``ref`` is its job."""

    def __init__(self, ref: str) -> None:
        super().__init__("this ticket is older than TICKET_LIFETIME")
        self.ref = ref


class UnreadableError(ReceiverError):
    """A body is not a report: not JSON, not an object, or without the fields of a report."""

    permanent = True


class ProviderError(ReceiverError):
    """A call of a provider's API failed."""


class RefusedError(ProviderError):
    """The provider refused a submit; the text is its own. Nothing was started or billed.

    ``provider_id`` is the id in the refusal, if it has one, so that the task can be polled.
    """

    permanent = True

    def __init__(self, text: str, *, provider_id: str | None = None) -> None:
        super().__init__(text)
        self.provider_id = provider_id


class NotSentError(ProviderError):
    """The submit was not accepted: no connection, or an answer 429. It is safe to repeat it."""


class AnswerLostError(ProviderError):
    """The submit was sent and got no usable answer. Never repeat it: it may have been billed."""

    permanent = True


class NoSuchTaskError(ProviderError):
    """The provider does not know this id: not yet (right after a submit), or no longer."""


class ProviderUnavailableError(ProviderError):
    """A result cannot be polled now: no connection, an error page of a gateway, a rate limit."""


class KeyTakenError(ReceiverError):
    """Another job has this key already; ``ref`` is that job."""

    permanent = True

    def __init__(self, key: str, ref: str) -> None:
        super().__init__(f"the key {key!r} belongs to job {ref}")
        self.ref = ref


class KeyConflictError(KeyTakenError):
    """Another job has this key, and was asked for something else; nothing was posted."""

    def __init__(self, key: str, ref: str, what: str = "something else") -> None:
        super().__init__(key, ref)
        self.args = (f"{self}, which was asked for {what}; nothing posted",)


class FetchError(ReceiverError):
    """A result URL gave no usable bytes; temporary unless a subclass says otherwise."""


class AddressRefusedError(FetchError):
    """A URL leads to an address to which connections are not allowed."""

    permanent = True


class TooLargeError(FetchError):
    """More bytes than FETCH_MAX_BYTES."""

    permanent = True


class SourceGoneError(FetchError):
    """The source answered 401, 403, 404 or 410: not ready or expired. A new URL may help."""


class InterruptedFetchError(FetchError):
    """A slow download was stopped because other work waited for its thread."""


class NotThePictureError(ReceiverError):
    """The bytes are not a complete file of an allowed type; the source may serve others later."""


class TruncatedError(NotThePictureError):
    """The file ends before the picture does; another download may bring the rest."""


class StoreError(ReceiverError):
    """The archive cannot store or return an object now; the work waits, it does not fail."""


class MissingObjectError(StoreError):
    """The archive holds no object under this key."""


class ObjectDiffersError(StoreError):
    """The key already holds other bytes; an object is never overwritten."""


class EventNotDeliveredError(ReceiverError):
    """A destination did not accept an event; it is sent again.

    ``away``: the destination cannot be reached, whatever the event. ``status`` is the HTTP status
    that it answered, None if it did not answer. ``wait``: the seconds that it asked us to wait.
    ``answer`` is the beginning of what it wrote.
    """

    def __init__(
        self,
        text: str,
        *,
        away: bool = False,
        status: int | None = None,
        wait: float = 0.0,
        answer: str = "",
    ) -> None:
        super().__init__(text)
        self.away = away
        self.status = status
        self.wait = wait
        self.answer = answer


class EventPostponedError(ReceiverError):
    """The host of a job's webhook gets nothing until a moment (seconds since the epoch).

    ``start`` is the beginning of its URLs. ``away``: the host could not be reached; otherwise it
    has its share of the threads.
    """

    def __init__(self, until: float, start: str, *, away: bool) -> None:
        super().__init__(
            f"{start} could not be reached, so this delivery was not tried again"
            if away
            else f"{start} has all threads that one host may have"
        )
        self.until = until
        self.start = start
        self.away = away


# The name of earlier releases; callers may catch it.
NotToldError = EventNotDeliveredError


class LedgerError(ReceiverError):
    """The ledger cannot be read or written now."""


class ClaimLostError(ReceiverError):
    """The lease ended and another worker has the claim: stop, change nothing."""

    permanent = True


def mistakes_in(error: "ValidationError") -> Iterator[tuple[str, str]]:
    """Yield the field and the text of each mistake, without the value: that may be a secret.

    The field is "" if the mistake concerns the whole.
    """
    for item in error.errors(include_url=False, include_input=False):
        text = _NO_OBJECT if item["type"] == "dict_type" else item["msg"]
        text = _ENUM_MEMBER.sub(r"\1", text.removeprefix("Value error, "))
        yield ".".join(map(str, item["loc"])), text
