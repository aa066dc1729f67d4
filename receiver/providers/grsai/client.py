"""HTTP client of GRSAI: one request, one response, no retries.

After a failed submit the caller must know whether the provider may have received it. Therefore a
submit connects first, then calls ``before_send`` (which records the job), and then sends. A failure
before that call means that nothing was sent.
"""

import time
import zlib
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
from receiver.providers.grsai import answers
from receiver.providers.grsai.answers import Head
from receiver.providers.grsai.loose_json import is_complete
from receiver.providers.grsai.request import CREDITS_PATH, Request, build_result
from receiver.providers.grsai.streams import events
from receiver.telemetry.redaction import Redactor

# Seconds to connect, and to wait for more data. A stream without data for longer is given up.
_DEFAULT_TIMEOUTS = (10.0, 60.0)
# The same for asking about a task. It can be repeated, and a provider that hangs must not block
# worker threads for long.
_RESULT_TIMEOUTS = (5.0, 15.0)
# Bytes to read of a response, or of one line of a stream. A task object has a few hundred, unless
# its pictures are inside.
_MAX_RESPONSE = 64 * 1024 * 1024
_CHUNK = 64 * 1024
_GZIP_MAGIC, _GZIP = b"\x1f\x8b", zlib.MAX_WBITS | 16
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

    def submit(self, base_url: str, request: Request, before_send: BeforeSend) -> tuple[str, bytes]:
        """Post a job and return the provider's id, and the body that it was in.

        Raise RefusedError, NotSentError or AnswerLostError.
        """
        with self._send(base_url, request, before_send) as response:
            body, broken = _body(response)
            body = self._redact(body)
            try:
                found = answers.read_submit(_head(response), body, cut_short=broken is not None)
            except AnswerLostError:
                if broken is not None:
                    raise broken from None
                raise
        return found, body

    @contextmanager
    def stream(
        self, base_url: str, request: Request, before_send: BeforeSend
    ) -> Iterator[Iterator[bytes]]:
        """Post a job whose response is a stream, and yield the bodies of its events as they arrive.

        A task without a stream is one event. Raise RefusedError or NotSentError if there is an
        error before an event names the task, and AnswerLostError if the stream breaks or stops.
        """
        with self._send(base_url, request, before_send) as response:
            head = _head(response)
            if not head.is_success:
                body, _ = _body(response)
                # An id in an error's body is not dropped: its task is polled.
                answers.read_submit(head, self._redact(body))
                yield iter([body])
                return
            found = events(map(self._redact, _lines(response)))
            checked = _checked(found)
            first = list(islice(checked, 1))
            yield chain(first, checked)

    def result(self, base_url: str, api: Api, provider_id: str) -> bytes:
        """Ask for a task and return the body of the response.

        Raise NoSuchTaskError or ProviderUnavailableError.
        """
        request = build_result(api, provider_id)
        try:
            with (
                requests.Session() as session,
                self._request(session, base_url, request, timeouts=_RESULT_TIMEOUTS) as response,
            ):
                body, broken = _body(response)
                body = self._redact(body)
                if broken is not None and not is_complete(body):
                    raise broken
        except _NETWORK_ERRORS as error:
            raise ProviderUnavailableError(
                f"{base_url} cannot be asked now: {_describe(error)}"
            ) from error
        answers.read_result(api, _head(response), body, provider_id)
        return body

    def credits(self, base_url: str) -> float:
        """Return how many credits the key has left; raise ProviderUnavailableError."""
        request = Request(CREDITS_PATH, {"apiKey": self._key})
        try:
            with (
                requests.Session() as session,
                self._request(session, base_url, request) as response,
            ):
                body, _ = _body(response)
                return answers.read_credits(_head(response), self._redact(body))
        except (*_NETWORK_ERRORS, UnreadableError) as error:
            raise ProviderUnavailableError(
                f"{base_url} cannot be asked for credits now: {_describe(error)}"
            ) from error

    @contextmanager
    def _send(
        self, base_url: str, request: Request, before_send: BeforeSend
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
        request: Request,
        timeouts: tuple[float, float] | None = None,
    ) -> requests.Response:
        # Redirects are not followed: they would turn the POST into a GET, or leak our key.
        return session.request(
            "GET" if request.body is None else "POST",
            base_url + request.path,
            json=request.body,
            headers={"Authorization": f"Bearer {self._key}", "Accept-Encoding": "identity"},
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


def _checked(found: Iterator[bytes]) -> Iterator[bytes]:
    """Yield events; raise RefusedError for an error before one has named the task."""
    for body in found:
        named = answers.check_unnamed_event(body)
        yield body
        if named:
            break
    yield from found


def _head(response: requests.Response) -> Head:
    return Head(response.status_code, response.headers.get("Location", ""))


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """Yield the body as it arrives, without waiting until a chunk is full.

    Whether it is compressed is seen in its first bytes, whatever the header says.
    """
    unpack: Callable[[bytes], bytes] | None = None
    while chunk := bytes(response.raw.read1(_CHUNK, decode_content=False)):
        if unpack is None:
            unpack = zlib.decompressobj(_GZIP).decompress if chunk[:2] == _GZIP_MAGIC else bytes
        try:
            yield unpack(chunk)
        except zlib.error as error:
            raise requests.exceptions.ContentDecodingError(f"broken gzip data: {error}") from error


def _body(response: requests.Response) -> tuple[bytes, Exception | None]:
    """Return a response, limited in bytes and in time, and the error that ended it too early.

    Without the limit in time a response that drips would block a thread for ever. What came before
    an error may be whole, or have the id of a job that is paid for.
    """
    end, body = time.monotonic() + _RESPONSE_TIMEOUT, bytearray()
    try:
        for chunk in _chunks(response):
            body += chunk
            if len(body) > _MAX_RESPONSE or time.monotonic() > end:
                raise requests.exceptions.ContentDecodingError(
                    f"an answer of more than {_MAX_RESPONSE} bytes, or {_RESPONSE_TIMEOUT:.0f} s"
                )
    except _NETWORK_ERRORS as error:
        return bytes(body[:_MAX_RESPONSE]), error
    return bytes(body), None


def _lines(response: requests.Response) -> Iterator[bytes]:
    """Yield the lines of a stream as they arrive, without line ends; too long ones raise."""
    rest = bytearray()
    try:
        for chunk in _chunks(response):
            first, newline, more = chunk.partition(b"\n")
            rest += first
            if newline:
                *lines, last = more.split(b"\n")
                yield from (line.rstrip(b"\r") for line in (bytes(rest), *lines))
                rest = bytearray(last)
            if len(rest) > _MAX_RESPONSE:
                raise requests.exceptions.ContentDecodingError("a line of the stream has no end")
    except _NETWORK_ERRORS:
        if rest:
            yield bytes(rest)  # it may be a whole event
        raise
    if rest:
        yield bytes(rest)


def _describe(error: Exception) -> str:
    """Return the text of an error without the object addresses that urllib3 prints."""
    cause = error.args[0] if error.args else error
    reason = getattr(cause, "reason", cause)
    return str(reason).rpartition("object at ")[2].partition(">: ")[2] or str(reason)
