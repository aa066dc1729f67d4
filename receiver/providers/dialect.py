"""What each provider's package implements: its protocol, without I/O.

Bytes and values in, a typed value or a typed error out. ``receiver/providers/client.py`` sends what
a dialect builds. ``receiver/providers/registry.py`` has the dialect of each provider.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol
from urllib.parse import urlsplit

from receiver.model import Api, Proof, Provider, Report, Submission

_REQUEST_TIMEOUT = 408
_HOST = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Account:
    """Our account at a provider: its API key, and the address to post to.

    ``keys_url`` is the address of the keys that verify callbacks; "" if the dialect knows it.
    """

    key: str
    base_url: str
    keys_url: str = ""

    @property
    def fingerprint(self) -> str:
        """The name of the key in the ledger; it does not help to guess the key."""
        return sha256(f"account {self.key}".encode()).hexdigest()[:6]

    def may_have_key(self, url: str, hosts: tuple[str, ...] = ()) -> bool:
        """Return whether our key may be sent to a URL: at ``base_url`` or, by TLS, elsewhere.

        Elsewhere means at ``hosts``, which are the provider's own, or at hosts below them.
        """
        try:
            parts, base = urlsplit(url), urlsplit(self.base_url)
            host, port = parts.hostname or "", parts.port
        except ValueError:  # a broken IPv6 address, or a port that is not a number
            return False
        if (parts.scheme, parts.netloc) == (base.scheme, base.netloc):
            return True
        # Only characters that every program reads as a part of the name.
        is_plain = parts.scheme == "https" and port in {None, 443} and _HOST.fullmatch(host)
        return bool(is_plain) and any(host == one or host.endswith(f".{one}") for one in hosts)


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a provider; ``body`` is sent as JSON, None means GET."""

    url: str
    headers: Mapping[str, str]
    body: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer: its HTTP status and, if it redirects, to where."""

    status: int
    location: str = ""

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300  # noqa: PLR2004 - HTTP's classes

    @property
    def redirects(self) -> bool:
        """Whether the status is 3xx: the request was not processed."""
        return 300 <= self.status < 400  # noqa: PLR2004 - HTTP's classes

    @property
    def refuses(self) -> bool:
        """Whether the status is 4xx.

        A 408 is left out: it comes from a gateway after a timeout, which may have passed the
        request on before.
        """
        return 400 <= self.status < 500 and self.status != _REQUEST_TIMEOUT  # noqa: PLR2004 - as above

    def redirect_text(self, setting: str = "GRSAI_BASE_URL") -> str:
        """Return where the answer redirects to, without query, and the remedy."""
        try:
            to = urlsplit(self.location[:500])
        except ValueError:  # a broken IPv6 address
            return "the provider redirects to a malformed address"
        target = f"{to.scheme}://{to.netloc.rpartition('@')[2]}" if to.netloc else ""
        remedy = f": set {setting} to {target}" if target else ""
        return f"the provider redirects to {target + to.path or 'nowhere'}{remedy}"


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the answer to a submit says: the provider's id of the task.

    ``poll_url`` is the address to poll, None if it follows from the id. ``is_end``: the answer is
    already the task's end.
    """

    provider_id: str
    poll_url: str | None = None
    is_end: bool = False


@dataclass(frozen=True, slots=True)
class Callback:
    """Where a job's callbacks go, and the secret that signs them if each job has its own."""

    url: str
    secret: str


@dataclass(frozen=True, slots=True)
class Task:
    """A task to ask a provider about."""

    provider: Provider
    provider_id: str
    base_url: str
    api: Api = Api.QUEUE
    model: str = ""
    poll_url: str | None = None


@dataclass(frozen=True, slots=True)
class Keys:
    """What verifies a callback: keys as the provider writes them, and our account's id there.

    Without ``user_id`` it is not known yet.
    """

    values: tuple[str, ...] = ()
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """What the signature of a callback proves.

    ``user_id`` and ``provider_id`` are set if a valid signature names another account than the
    known one, or if no account is known. In the second case the account is ours if the answer to
    our submit had this id.
    """

    proof: Proof
    user_id: str | None = None
    provider_id: str | None = None


NO_KEYS = Keys()


class Headers(Protocol):
    """The headers of a callback: Flask's, or a mapping; names in any case."""

    def get(self, name: str, default: str, /) -> str:
        """Return the value of a header, ``default`` if there is none."""


class ReportDialect(Protocol):
    """What every provider has: reports, and URLs that live for some time."""

    @property
    def provider(self) -> Provider:
        """The provider."""

    @property
    def key_name(self) -> str:
        """The setting that holds our API key."""

    @property
    def url_lifetime(self) -> float | None:
        """Seconds a result URL lives; None: URL_LIFETIME."""

    @property
    def signs_bodies(self) -> bool:
        """Whether the provider signs callbacks; then it is polled after one without a signature."""

    def read_report(self, body: bytes) -> Report:
        """Return what a callback or an answer says; raise UnreadableError if it is not a report."""

    def read_picture(self, body: bytes, url: str) -> str:
        """Return the base64 text of the picture that ``url`` (``delivery:<index>``) names.

        Raise UnreadableError if the report has no such picture inside.
        """


class Dialect(ReportDialect, Protocol):
    """A provider that takes a task and reports its end later."""

    @property
    def example(self) -> str:
        """The name of a model, for the texts of errors."""

    @property
    def has_job_secrets(self) -> bool:
        """Whether each job's callbacks are signed with a secret of their own."""

    def mistakes(self, submission: Submission) -> list[str]:
        """Return the parts of a request that this provider cannot do, each with the remedy."""

    def size_params(self, model: str, api: Api, size: str) -> dict[str, object]:
        """Return the provider's fields for a size; raise ValueError with the remedy."""

    def count_params(self, model: str, api: Api, pictures: int) -> dict[str, object]:
        """Return the provider's fields for the number of pictures; raise ValueError as above."""

    def reference_params(
        self, model: str, api: Api, pictures: tuple[str, ...]
    ) -> dict[str, object]:
        """Return the provider's fields for reference pictures; raise ValueError as above."""

    def build_submit(
        self, account: Account, submission: Submission, callback: Callback | None
    ) -> Request:
        """Return the POST of a submit; without ``callback`` the task is polled.

        Raise ValueError if the model cannot be posted.
        """

    def read_submit(self, head: Head, body: bytes) -> Accepted:
        """Return the accepted task; raise RefusedError, NotSentError or AnswerLostError."""

    def verify(self, headers: Headers, body: bytes, keys: Keys, now: float) -> Verified:
        """Return what headers and raw body of a callback prove, with a valid ticket."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """The provider's own hosts: our key may be sent to these and to hosts below them."""

    def download_headers(self, account: Account, url: str) -> Mapping[str, str]:
        """Return the headers that a download of a result needs: our key, or nothing.

        Our key is only for a URL for which ``account.may_have_key`` is true.
        """

    def build_poll(self, account: Account, task: Task) -> Request:
        """Return the request that asks for a task."""

    def read_poll(self, account: Account, task: Task, head: Head, body: bytes) -> Request | None:
        """Return the next request; None if the answer is a report, or unreadable with status 2xx.

        Raise NoSuchTaskError or ProviderUnavailableError.
        """

    def build_check(self, account: Account) -> Request | None:
        """Return a free request that shows whether the key works; None if there is none."""

    def read_check(self, head: Head, body: bytes) -> float | None:
        """Return the credits that are left, None if the answer has none.

        Raise UnreadableError if the key does not work.
        """

    def build_keys(self, account: Account) -> Request | None:
        """Return the request for the keys that verify callbacks; None: they cannot be fetched."""

    def read_keys(self, head: Head, body: bytes) -> tuple[str, ...]:
        """Return the keys in the answer; raise UnreadableError if it has none."""


@dataclass(frozen=True, slots=True)
class ProviderAnswer:
    """A whole answer, and the error that ended it too early."""

    head: Head
    body: bytes
    broken: Exception | None = field(default=None)
