"""The client of a provider: sends what its dialect builds. One request, one answer, no retries."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import urlsplit

import requests
import structlog

from receiver.errors import (
    AnswerLostError,
    NotSentError,
    ProviderError,
    ProviderUnavailableError,
    UnreadableError,
)
from receiver.model import Provider
from receiver.providers.dialect import (
    Accepted,
    Account,
    Dialect,
    Head,
    ProviderAnswer,
    Request,
    Task,
)
from receiver.providers.grsai.loose_json import is_complete
from receiver.providers.registry import READERS
from receiver.providers.transport import (
    DEFAULT_TIMEOUTS,
    NETWORK_ERRORS,
    RESULT_TIMEOUTS,
    BeforeSend,
    NotifyingAdapter,
    describe,
    read_body,
)
from receiver.telemetry.redaction import Redactor

log = structlog.get_logger(__name__)

# How many requests one poll may need.
_MOST_REQUESTS = 3

# Sends a request to an address that the provider named, if it is a public one.
AskElsewhere = Callable[[Request], ProviderAnswer]


class ProviderClient:
    """A client with one account. Threads may share it.

    A provider may name addresses outside ``account.base_url`` in its answers. ``elsewhere`` sends
    requests to them; without it they are not used.
    """

    def __init__(
        self,
        dialect: Dialect,
        account: Account,
        timeouts: tuple[float, float] = DEFAULT_TIMEOUTS,
        *,
        elsewhere: AskElsewhere | None = None,
    ) -> None:
        self.dialect = dialect
        self.account = account
        # A provider may repeat the key in its response, which is stored and displayed.
        self._redact = Redactor([account.key]).raw
        self._timeouts = timeouts
        self._elsewhere = elsewhere

    def submit(self, request: Request, before_send: BeforeSend) -> tuple[Accepted, bytes]:
        """Post a job; return what was accepted, and the body that said so.

        Raise RefusedError, NotSentError or AnswerLostError.
        """
        with self._send(request, before_send) as response:
            body, broken = read_body(response)
            body = self._redact(body)
            try:
                found = self.dialect.read_submit(head_of(response), body)
            except AnswerLostError:
                if broken is not None:
                    raise broken from None
                raise
        return found, body

    def result(self, task: Task) -> bytes:
        """Ask for a task and return the body of the answer, which is a report.

        Raise NoSuchTaskError or ProviderUnavailableError.
        """
        request = self.dialect.build_poll(self.account, self._askable(task))
        for _ in range(_MOST_REQUESTS):
            answer = self._ask(request, task.base_url)
            if answer.broken is not None and not is_complete(answer.body):
                raise self._unavailable(request, answer.broken)
            more = self.dialect.read_poll(self.account, task, answer.head, answer.body)
            if more is None:
                return answer.body
            request = more
        raise ProviderUnavailableError("the provider's answers lead nowhere")

    def _askable(self, task: Task) -> Task:
        """Return the task; its address for polls is removed if our key must not be sent there."""
        if task.poll_url is None or self._may_have_key(task.poll_url, task.base_url):
            return task
        log.warning(
            "address for polls not used, our key is not sent there",
            provider=task.provider,
            provider_id=task.provider_id,
            host=_origin(task.poll_url),
            hosts=self.dialect.hosts,
        )
        return replace(task, poll_url=None)

    def _may_have_key(self, url: str, base_url: str) -> bool:
        """Return whether our key may be sent to a URL of a task that was posted to ``base_url``."""
        return replace(self.account, base_url=base_url).may_have_key(url, self.dialect.hosts)

    def credits(self) -> float | None:
        """Return the credits that are left; None if this provider does not tell.

        Raise ProviderUnavailableError if the key does not work or cannot be checked now.
        """
        request = self.dialect.build_check(self.account)
        if request is None:
            return None
        answer = self._ask(request, self.account.base_url, self._timeouts)
        try:
            return self.dialect.read_check(answer.head, answer.body)
        except UnreadableError as error:
            raise ProviderUnavailableError(
                f"{self.account.base_url} cannot be asked for credits now: {error}"
            ) from error

    def fetch_keys(self) -> tuple[str, ...]:
        """Return the keys that verify callbacks; none if they cannot be fetched.

        Raise ProviderUnavailableError if they cannot be fetched now.
        """
        request = self.dialect.build_keys(self.account)
        if request is None:
            return ()
        answer = self._ask(request, request.url)
        try:
            return self.dialect.read_keys(answer.head, answer.body)
        except UnreadableError as error:
            raise ProviderUnavailableError(f"no keys at {request.url}: {error}") from error

    def _ask(
        self, request: Request, base_url: str, timeouts: tuple[float, float] = RESULT_TIMEOUTS
    ) -> ProviderAnswer:
        """Send a request that may be repeated; raise ProviderUnavailableError."""
        try:
            if _origin(request.url) != _origin(base_url):
                answer = self._ask_elsewhere(request, base_url)
                return ProviderAnswer(answer.head, self._redact(answer.body), answer.broken)
            with (
                requests.Session() as session,
                self._request(session, request, timeouts) as response,
            ):
                body, broken = read_body(response)
                return ProviderAnswer(head_of(response), self._redact(body), broken)
        except NETWORK_ERRORS as error:
            raise self._unavailable(request, error) from error

    def _ask_elsewhere(self, request: Request, base_url: str) -> ProviderAnswer:
        """Ask another host of the provider, if the policy of addresses allows it."""
        if self._elsewhere is None or not self._may_have_key(request.url, base_url):
            raise ProviderUnavailableError(
                f"{_origin(request.url)} is not asked: it is not one of the provider's hosts"
            )
        return self._elsewhere(request)

    def _unavailable(self, request: Request, error: Exception) -> ProviderUnavailableError:
        return ProviderUnavailableError(
            f"{_origin(request.url)} cannot be asked now: {describe(error)}"
        )

    @contextmanager
    def _send(self, request: Request, before_send: BeforeSend) -> Iterator[requests.Response]:
        """Send a submit over a new connection and yield the response.

        If a kept-alive connection has just been closed by the server, it is not known whether the
        server read the request.
        """
        adapter, base_url = NotifyingAdapter(before_send), self.account.base_url
        with requests.Session() as session:
            session.mount("http://", adapter)
            session.mount("https://", adapter)
            try:
                with self._request(session, request, self._timeouts) as response:
                    yield response
            except NETWORK_ERRORS as error:
                if not adapter.before_send_called:
                    raise NotSentError(f"no connection to {base_url}: {describe(error)}") from error
                raise AnswerLostError(
                    f"the submit went to {base_url} and its answer was lost: {describe(error)}"
                ) from error

    def _request(
        self, session: requests.Session, request: Request, timeouts: tuple[float, float]
    ) -> requests.Response:
        # Redirects are not followed: they would turn the POST into a GET, or leak our key.
        return session.request(
            "GET" if request.body is None else "POST",
            request.url,
            json=request.body,
            headers={**request.headers, "Accept-Encoding": "identity"},
            timeout=timeouts,
            stream=True,
            allow_redirects=False,
        )


class Clients:
    """The client of each provider for which we have a key."""

    def __init__(self, clients: Mapping[Provider, ProviderClient]) -> None:
        self._clients = clients

    def get(self, provider: Provider) -> ProviderClient | None:
        """Return the client of a provider; None without its key."""
        return self._clients.get(provider)

    def can_ask(self, provider: str) -> bool:
        """Return whether a provider can be asked about tasks."""
        return provider in self._clients

    def download_headers(self, url: str, provider_of: Callable[[], str]) -> Mapping[str, str]:
        """Return the headers that the download of a result needs, most often none.

        ``provider_of`` returns its job's provider, and is called only if that matters.
        """
        found = {
            str(name): client.dialect.download_headers(client.account, url)
            for name, client in self._clients.items()
        }
        return found.get(provider_of(), {}) if any(found.values()) else {}

    def result(self, task: Task) -> bytes:
        """Ask for a task and return the body of the answer; raise ProviderError."""
        client = self._clients.get(task.provider)
        if client is None:
            name = READERS[task.provider].key_name
            raise ProviderError(f"{name} is not set: the provider cannot be asked")
        return client.result(task)


def head_of(response: requests.Response) -> Head:
    """Return the head of a response."""
    return Head(response.status_code, response.headers.get("Location", ""))


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
