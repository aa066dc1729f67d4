"""Every error of the service, in one tree.

Each error says whether trying again can help: ``permanent`` is True when it cannot. Errors of libraries are turned into these once,
at the seam where they appear, with ``raise … from``.
"""


class ReceiverError(Exception):
    """Anything the service reports on purpose; its text is meant for a person."""

    permanent = False


class ConfigurationError(ReceiverError):
    """The environment or the command line is wrong; ``mistakes`` names every one, each with its remedy."""

    permanent = True

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = mistakes


class TicketError(ReceiverError):
    """A callback URL whose ticket we did not sign."""

    permanent = True


class UnreadableError(ReceiverError):
    """A body that is no report: not JSON, not an object, or without the fields a report needs."""

    permanent = True


class ProviderError(ReceiverError):
    """What can go wrong between us and a provider's API."""


class RefusedError(ProviderError):
    """The provider said no to a submit, in its own words. Nothing was started and nothing is owed."""

    permanent = True


class NotSentError(ProviderError):
    """The submit was never accepted: no connection was made, or the provider answered 429. Safe to repeat."""


class AnswerLostError(ProviderError):
    """The submit went out and no usable answer came back: it may have been accepted and billed. Never to be repeated."""

    permanent = True


class NoSuchTaskError(ProviderError):
    """The provider does not know this id: right after a submit "not yet", later "gone"."""


class ProviderUnavailableError(ProviderError):
    """A result could not be read back for now: no connection, a gateway's error page, a rate limit."""


class KeyTakenError(ReceiverError):
    """Another job has this key already; ``ref`` is that job."""

    permanent = True

    def __init__(self, key: str, ref: str) -> None:
        super().__init__(f"the key {key!r} belongs to job {ref}")
        self.ref = ref


class FetchError(ReceiverError):
    """A result URL that gave no usable bytes; transient unless a subclass says otherwise."""


class AddressRefusedError(FetchError):
    """A URL, or an address behind it, that must not be connected to."""

    permanent = True


class TooLargeError(FetchError):
    """More bytes than FETCH_MAX_BYTES."""

    permanent = True


class SourceGoneError(FetchError):
    """The source answered 401, 403, 404 or 410: not ready yet, or its URL died early. A fresh URL may help."""


class NotThePictureError(ReceiverError):
    """Bytes that are not a whole file of an allowed type. The source may still serve the right ones later."""


class StoreError(ReceiverError):
    """The archive could not take or give an object for now; the work waits, it does not fail."""


class MissingObjectError(StoreError):
    """The archive holds no object under this key."""


class ObjectDiffersError(StoreError):
    """The key already holds other bytes; the first ones put under a key stay."""


class EventNotDeliveredError(ReceiverError):
    """An event that a destination did not take; it is told again.

    ``away``: nobody can reach the destination now, whatever the event. ``wait``: the seconds it asked us to wait.
    """

    def __init__(self, text: str, *, away: bool = False, wait: float = 0.0) -> None:
        super().__init__(text)
        self.away = away
        self.wait = wait


class LedgerError(ReceiverError):
    """The ledger could not be read or written for now."""


class ClaimLostError(ReceiverError):
    """The lease ended and somebody else owns the work now: stop, change nothing."""

    permanent = True
