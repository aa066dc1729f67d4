"""HTTP client of GRSAI: one request, one response, no retries.

After a failed submit the caller must know whether the provider may have received it. Therefore a
submit connects first, then calls ``before_send`` (which records the job), and then sends. A failure
before that call means that nothing was sent.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool
from urllib3.exceptions import HTTPError

from receiver.errors import AnswerLostError, NotSentError, ProviderUnavailableError, UnreadableError
from receiver.model import Api
from receiver.providers.grsai import protocol as grsai
from receiver.telemetry.redaction import Redactor

# Seconds to connect, and to wait for more data. A stream without data for longer is given up.
_DEFAULT_TIMEOUTS = (10.0, 60.0)
# The same for asking about a task. It can be repeated, and a provider that hangs must not block
# worker threads for long.
_RESULT_TIMEOUTS = (5.0, 15.0)
# Bytes to read of a response, or of one line of a stream. A task object has a few hundred.
_MAX_RESPONSE = 4 * 1024 * 1024
_MAX_JSON_LINES = 1000
_CHUNK = 64 * 1024
# Seconds for a whole response.
_RESPONSE_TIMEOUT = 120.0

# What requests raises for a broken connection, and urllib3 while a body is read.
_NETWORK_ERRORS = (requests.RequestException, HTTPError, OSError)

BeforeSend = Callable[[], None]


class GrsaiClient:
    """A client with one API key. Threads may share it."""

    def __init__(self, key: str, timeouts: tuple[float, float] = _DEFAULT_TIMEOUTS) -> None:
        self._key = key
        # A provider may repeat the key in its response, which is stored and displayed.
        self._redact = Redactor([key]).raw
        self._timeouts = timeouts

    def submit(self, base_url: str, request: grsai.Request, before_send: BeforeSend) -> str:
        """Post a job and return the provider's id.

        Raise RefusedError, NotSentError or AnswerLostError.
        """
        with self._send(base_url, request, before_send) as response:
            body = self._redact(_body(response))
        return grsai.read_submit(response.status_code, body)

    @contextmanager
    def stream(
        self, base_url: str, request: grsai.Request, before_send: BeforeSend
    ) -> Iterator[Iterator[bytes]]:
        """Post a job whose response is a stream, and yield the bodies of its events as they arrive.

        Raise RefusedError or NotSentError if the response is a JSON error instead of a stream, and
        AnswerLostError if the stream breaks or stops.
        """
        with self._send(base_url, request, before_send) as response:
            lines = map(self._redact, _lines(response))
            first = next((line for line in lines if line.strip()), b"")
            # A stream may begin with comments and event names; a JSON error begins with "{".
            if response.status_code != 200 or first.lstrip().startswith(b"{"):  # noqa: PLR2004 - HTTP's "OK"
                grsai.read_submit(
                    response.status_code, first + b"".join(islice(lines, _MAX_JSON_LINES))
                )
                raise AnswerLostError("the provider accepted the job, but did not stream")
            yield grsai.stream_events(chain([first], lines))

    def result(self, base_url: str, api: Api, provider_id: str) -> bytes:
        """Ask for a task and return the body of the response.

        Raise NoSuchTaskError or ProviderUnavailableError.
        """
        request = grsai.build_result(api, provider_id)
        try:
            with (
                requests.Session() as session,
                self._request(session, base_url, request, timeouts=_RESULT_TIMEOUTS) as response,
            ):
                body = self._redact(_body(response))
        except _NETWORK_ERRORS as error:
            raise ProviderUnavailableError(
                f"{base_url} cannot be asked now: {_describe(error)}"
            ) from error
        grsai.read_result(api, response.status_code, body)
        return body

    def credits(self, base_url: str) -> float:
        """Return how many credits the key has left; raise ProviderUnavailableError."""
        request = grsai.Request(grsai.CREDITS_PATH, {"apiKey": self._key})
        try:
            with (
                requests.Session() as session,
                self._request(session, base_url, request) as response,
            ):
                return grsai.read_credits(response.status_code, self._redact(_body(response)))
        except (*_NETWORK_ERRORS, UnreadableError) as error:
            raise ProviderUnavailableError(
                f"{base_url} cannot be asked for credits now: {_describe(error)}"
            ) from error

    @contextmanager
    def _send(
        self, base_url: str, request: grsai.Request, before_send: BeforeSend
    ) -> Iterator[requests.Response]:
        """Send a submit over a new connection and yield the response.

        With a kept-alive connection that the server has just closed, one could not know whether it
        read the request.
        """
        adapter = _NotifyingAdapter(before_send)
        with requests.Session() as session:
            session.mount("http://", adapter)
            session.mount("https://", adapter)
            try:
                with self._request(session, base_url, request) as response:
                    yield response
            except _NETWORK_ERRORS as error:
                if not adapter.before_send_called:
                    raise NotSentError(
                        f"no connection to {base_url}: {_describe(error)}"
                    ) from error
                raise AnswerLostError(
                    f"the submit went to {base_url} and its answer was lost: {_describe(error)}"
                ) from error

    def _request(
        self,
        session: requests.Session,
        base_url: str,
        request: grsai.Request,
        timeouts: tuple[float, float] | None = None,
    ) -> requests.Response:
        # Redirects are not followed: they would turn the POST into a GET, or leak our key.
        return session.request(
            "GET" if request.body is None else "POST",
            base_url + request.path,
            json=request.body,
            headers={"Authorization": f"Bearer {self._key}"},
            timeout=timeouts or self._timeouts,
            stream=True,
            allow_redirects=False,
        )


class _NotifyingAdapter(HTTPAdapter):
    """Calls ``before_send`` when the connection is open, before the first byte of the request."""

    def __init__(self, before_send: BeforeSend) -> None:
        super().__init__(max_retries=0)
        self.before_send_called = False
        self._before_send = before_send

    def call_before_send(self) -> None:
        self._before_send()
        self.before_send_called = True

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        call_before_send = self.call_before_send

        class NotifyingConnection(pool.ConnectionCls):  # type: ignore[misc]  # http or https, directly or through a proxy
            def request(self, *args: Any, **kwargs: Any) -> None:
                if self.sock is None:
                    self.connect()
                call_before_send()
                super().request(*args, **kwargs)

        pool.ConnectionCls = NotifyingConnection
        return pool  # type: ignore[no-any-return]  # what it was, with another class of connections


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """Yield the body as it arrives, without waiting until a chunk is full."""
    while chunk := response.raw.read1(_CHUNK, decode_content=True):
        yield bytes(chunk)


def _body(response: requests.Response) -> bytes:
    """Return a whole response, limited in bytes and in time.

    Without the limit in time a response that drips would block a thread for ever.
    """
    end, body = time.monotonic() + _RESPONSE_TIMEOUT, bytearray()
    for chunk in _chunks(response):
        body += chunk
        if len(body) > _MAX_RESPONSE or time.monotonic() > end:
            raise requests.exceptions.ContentDecodingError(
                f"an answer of more than {_MAX_RESPONSE} bytes, or {_RESPONSE_TIMEOUT:.0f} s"
            )
    return bytes(body)


def _lines(response: requests.Response) -> Iterator[bytes]:
    """Yield the lines of a stream as they arrive, without line ends; too long ones raise."""
    rest = b""
    for chunk in _chunks(response):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.rstrip(b"\r") for line in lines)
        if len(rest) > _MAX_RESPONSE:
            raise requests.exceptions.ContentDecodingError("a line of the stream has no end")
    if rest:
        yield rest


def _describe(error: Exception) -> str:
    """Return the text of an error without the object addresses that urllib3 prints."""
    cause = error.args[0] if error.args else error
    reason = getattr(cause, "reason", cause)
    return str(reason).rpartition("object at ")[2].partition(">: ")[2] or str(reason)
