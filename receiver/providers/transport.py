"""HTTP to a provider: one request, one response, limited in bytes and in time. No retries.

After a failed submit the caller must know whether the provider may have received it. Therefore a
submit connects first, then calls ``before_send`` (which records the job), and then sends. A failure
before that call means that nothing was sent.
"""

import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool
from urllib3.exceptions import HTTPError

# Seconds to connect, and to wait for more data. A stream without data for longer is closed.
DEFAULT_TIMEOUTS = (10.0, 60.0)
# The same for polls. A poll can be repeated, and a provider that hangs must not block worker
# threads for long.
RESULT_TIMEOUTS = (5.0, 15.0)
# Bytes to read of a response, or of one line of a stream. A task object has a few hundred, unless
# its pictures are inside.
MAX_RESPONSE = 64 * 1024 * 1024
_CHUNK = 64 * 1024
_GZIP_MAGIC, _GZIP = b"\x1f\x8b", zlib.MAX_WBITS | 16
# Seconds for a whole response.
_RESPONSE_TIMEOUT = 120.0

# Errors of ``requests`` for a broken connection, and of urllib3 while a body is read.
NETWORK_ERRORS = (requests.RequestException, HTTPError, OSError)

BeforeSend = Callable[[], None]


class NotifyingAdapter(HTTPAdapter):
    """Calls ``before_send`` when the connection is open, before the first byte of the request."""

    def __init__(self, before_send: BeforeSend) -> None:
        super().__init__(max_retries=0)
        self.before_send_called = False
        self._before_send = before_send

    def call_before_send(self) -> None:
        """Call ``before_send``, and remember that it was called."""
        self._before_send()
        self.before_send_called = True

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:
        """Return a pool whose connections call ``before_send``; ``requests`` calls this method."""
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        call_before_send = self.call_before_send

        class NotifyingConnection(pool.ConnectionCls):  # type: ignore[misc]  # http or https, directly or through a proxy
            def request(self, *args: Any, **kwargs: Any) -> None:
                if self.sock is None:
                    self.connect()
                call_before_send()
                super().request(*args, **kwargs)

        pool.ConnectionCls = NotifyingConnection
        return pool  # type: ignore[no-any-return]  # the same pool, with another class of connections


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """Yield the body as it arrives, without waiting until a chunk is full.

    Its first bytes show whether it is compressed, whatever the header says.
    """
    unpack: Callable[[bytes], bytes] | None = None
    while chunk := bytes(response.raw.read1(_CHUNK, decode_content=False)):
        if unpack is None:
            unpack = zlib.decompressobj(_GZIP).decompress if chunk[:2] == _GZIP_MAGIC else bytes
        try:
            yield unpack(chunk)
        except zlib.error as error:
            raise requests.exceptions.ContentDecodingError(f"broken gzip data: {error}") from error


def read_body(response: requests.Response) -> tuple[bytes, Exception | None]:
    """Return a response, limited in bytes and in time, and the error that ended it too early.

    Without the limit in time a very slow response would block a thread for ever. The bytes before
    an error are returned too: they may be whole, or have the id of a job that is paid for.
    """
    end, body = time.monotonic() + _RESPONSE_TIMEOUT, bytearray()
    try:
        for chunk in _chunks(response):
            body += chunk
            if len(body) > MAX_RESPONSE or time.monotonic() > end:
                raise requests.exceptions.ContentDecodingError(
                    f"an answer of more than {MAX_RESPONSE} bytes, or {_RESPONSE_TIMEOUT:.0f} s"
                )
    except NETWORK_ERRORS as error:
        return bytes(body[:MAX_RESPONSE]), error
    return bytes(body), None


def read_lines(response: requests.Response) -> Iterator[bytes]:
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
            if len(rest) > MAX_RESPONSE:
                raise requests.exceptions.ContentDecodingError("a line of the stream has no end")
    except NETWORK_ERRORS:
        if rest:
            yield bytes(rest)  # it may be a whole event
        raise
    if rest:
        yield bytes(rest)


def describe(error: Exception) -> str:
    """Return the text of an error without the object addresses that urllib3 prints."""
    cause = error.args[0] if error.args else error
    reason = getattr(cause, "reason", cause)
    return str(reason).rpartition("object at ")[2].partition(">: ")[2] or str(reason)
