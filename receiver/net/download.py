"""Download a result URL to a file: from allowed addresses only, with a deadline, in bounded memory.

The policy checks every redirect. The SHA-256 is computed while the bytes are written. Nothing is
retried here; the ledger decides about retries. Error texts name hosts and statuses but never a
query, because it may contain a signature.
"""

import hashlib
import http.client
import io
import os
import re
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urljoin

from receiver.errors import (
    AddressRefusedError,
    FetchError,
    SourceGoneError,
    StoreError,
    TooLargeError,
)
from receiver.net.client import HttpClient, HttpRequest
from receiver.net.connection import (
    Connect,
    Deadline,
    Resolve,
    SafeConnector,
    resolve_host,
    translate_network_errors,
)
from receiver.net.decoding import Decoder, codings
from receiver.net.policy import AddressPolicy, Target
from receiver.net.progress import Progress
from receiver.net.response import Response

MAX_REDIRECTS = 5
# Bytes. A download needs this much memory, whatever the size of the file.
BUFFER_SIZE = 256 * 1024
# Transferred bytes allowed per byte of the body: chunks carry sizes and may carry extensions.
FRAMING_FACTOR = 2
NO_HEADERS: Mapping[str, str] = MappingProxyType({})

_REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
_GONE_STATUSES = frozenset({401, 403, 404, 410})
# A 203 is a 200 that a proxy has changed.
_WHOLE_STATUSES = frozenset({200, 203})
_WHOLE_RANGE = re.compile(r"bytes 0-([0-9]{1,18})/([0-9]{1,18})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A downloaded file: ``size`` in bytes, ``sha256`` in hex.

    ``url`` is the URL after all redirects, ``content_type`` what the server claimed, or "".
    ``decoded`` is the Content-Encoding that was decoded, or "". ``cut_short`` says what was missing
    at the end, or is "". A file that was cut short must be refused unless its own structure is
    complete. It is ``open_ended`` if the end of the connection was the end of the file, so it may
    be cut short.
    """

    size: int
    sha256: str
    url: str
    content_type: str
    decoded: str = ""
    cut_short: str = ""
    open_ended: bool = False


class BrokenOffError(FetchError):
    """The body broke off; the file has what came before, which ``fetched`` describes."""

    def __init__(self, message: str, fetched: Fetched) -> None:
        super().__init__(message)
        self.fetched = fetched


class Fetcher:
    """Downloads URLs to files. Threads may share it.

    ``timeout`` is the limit in seconds for a whole download, from name resolution to the last
    byte; ``stall`` is the limit for one wait without data. Tests replace ``resolve``, ``connect``,
    ``ssl_context`` and ``clock`` to simulate the outside network and the time.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        max_bytes: int,
        timeout: float,
        stall: float = 30.0,
        user_agent: str = "webhook-image-receiver",
        resolve: Resolve = resolve_host,
        connect: Connect = socket.create_connection,
        ssl_context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self.max_bytes = max_bytes
        self._timeout = timeout
        self._stall = stall
        self._user_agent = user_agent
        self._client = HttpClient(
            SafeConnector(policy, resolve=resolve, connect=connect, ssl_context=ssl_context),
            clock=clock,
        )
        self._clock = clock

    def fetch(
        self,
        url: str,
        into: Path,
        progress: Progress | None = None,
        count: Callable[[int], None] = lambda _size: None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> Fetched:
        """Download ``url`` to the new file ``into`` (mode 0600). After an error no file is left.

        ``progress`` is kept up to date, and may ask to stop. ``count`` is called with the size of
        each piece of the file, and may raise. ``headers`` are sent to the host of ``url`` only.

        Raise AddressRefusedError, TooLargeError, SourceGoneError or another FetchError if the
        source is at fault, StoreError if our disk cannot take the bytes or ``into`` exists. Only
        after a BrokenOffError the file is there, because what came was paid for.
        """
        deadline = Deadline(self._clock, self._timeout, self._stall, progress)
        deadline.progress.begin()
        try:
            return self._follow(self._policy.check_url(url), deadline, into, count, headers)
        finally:
            deadline.progress.end()

    def _follow(
        self,
        target: Target,
        deadline: Deadline,
        into: Path,
        count: Callable[[int], None],
        headers: Mapping[str, str],
    ) -> Fetched:
        """Download what is at a target, or where it redirects to."""
        for _ in range(MAX_REDIRECTS + 1):
            deadline.progress.hosts.append(target.authority)
            with (
                translate_network_errors(target.host),
                self._get(target, deadline, headers) as response,
            ):
                if response.status not in _REDIRECT_STATUSES:
                    deadline.progress.announced = response.length
                    return self._receive(response, target, into, count)
                following = self._redirect_target(target, response)
            if (following.scheme, following.authority) != (target.scheme, target.authority):
                headers = NO_HEADERS  # they may contain our key, and this is another server
            target = following
        raise FetchError(f"{target.host}: more than {MAX_REDIRECTS} redirects")

    def close(self) -> None:
        """Close the kept connections."""
        self._client.close()

    def _get(
        self, target: Target, deadline: Deadline, more: Mapping[str, str]
    ) -> AbstractContextManager[Response]:
        """Send one GET and read the head of the response."""
        headers = {
            **more,
            "User-Agent": self._user_agent,
            "Accept": "image/*, video/*;q=0.9, */*;q=0.1",
            "Accept-Encoding": "identity",
        }
        return self._client.exchange(
            HttpRequest("GET", target, headers), deadline, max_body=FRAMING_FACTOR * self.max_bytes
        )

    def _redirect_target(self, target: Target, response: http.client.HTTPResponse) -> Target:
        """Return the checked target of a redirect. Its addresses are checked on connecting."""
        location = response.headers.get("Location", "")
        if not location:
            raise FetchError(f"{target.host} answered {response.status} without a Location")
        # http.client reads headers as Latin-1; servers send UTF-8.
        location = location.encode("latin-1", "replace").decode("utf-8", "replace")
        try:
            following = self._policy.check_url(urljoin(target.url, location))
        except ValueError as error:
            raise AddressRefusedError(f"{target.host} redirects to an invalid URL") from error
        if target.scheme == "https" and following.scheme == "http":
            raise AddressRefusedError(f"{target.host} redirects from https to http")
        return following

    def _receive(
        self,
        response: http.client.HTTPResponse,
        target: Target,
        into: Path,
        count: Callable[[int], None],
    ) -> Fetched:
        _expect_plain_body(response, target.host)
        if response.length is not None and response.length > self.max_bytes:
            raise TooLargeError(
                f"{target.host} announces more than {self.max_bytes} bytes (FETCH_MAX_BYTES)"
            )
        claimed = " ".join(response.headers.get("Content-Type", "").split())[:200]
        encodings = ",".join(response.headers.get_all("Content-Encoding", []))
        body = _Body(response, target.host, codings(encodings, target.host))
        is_open_ended = response.length is None and not response.chunked
        with _new_file(into) as file:
            size, sha256, broken = self._copy(body, file, target.host, count)
        fetched = Fetched(
            size, sha256, target.url, claimed, body.decoded, body.cut_short, is_open_ended
        )
        if broken:
            raise BrokenOffError(str(broken), fetched) from broken
        return fetched

    def _copy(
        self, body: "_Body", file: io.RawIOBase, host: str, count: Callable[[int], None]
    ) -> tuple[int, str, FetchError | None]:
        """Write the body to the file. Return its size and SHA-256, and why it broke off if so."""
        digest = hashlib.sha256()
        size, broken = 0, None
        try:
            with translate_network_errors(host):
                for piece in body.pieces():
                    size += len(piece)
                    if size > self.max_bytes:
                        raise TooLargeError(
                            f"{host} sends more than {self.max_bytes} bytes (FETCH_MAX_BYTES)"
                        )
                    count(len(piece))
                    digest.update(piece)
                    _write(file, piece)
        except FetchError as error:
            if not size or error.permanent:
                raise
            broken = error
        if not size:
            raise FetchError(f"{host} answered with nothing")
        return size, digest.hexdigest(), broken


class _Body:
    """The body of a response, decoded while it arrives."""

    def __init__(self, response: http.client.HTTPResponse, host: str, encodings: list[str]) -> None:
        self.cut_short = ""
        self._response = response
        self._host = host
        self._decoders = [Decoder(coding) for coding in encodings]

    @property
    def decoded(self) -> str:
        """The encodings that were decoded, as the header names them."""
        return ", ".join(one.coding for one in self._decoders[::-1] if one.decoded)

    def pieces(self) -> Iterator[memoryview]:
        """Yield the body; raise FetchError if it is damaged or not complete."""
        if not self._decoders:
            yield from self._received()
            return
        try:
            for piece in self._received():
                for decoded in self._decode(bytes(piece), self._decoders):
                    yield memoryview(decoded)
        except zlib.error as error:
            raise FetchError(f"{self._host}: broken {self.decoded} data, {error}") from error
        if not all(decoder.is_complete for decoder in self._decoders):
            raise FetchError(f"{self._host}: cut short, its {self.decoded} data has no end")

    def _decode(self, data: bytes, decoders: list[Decoder]) -> Iterator[bytes]:
        if not decoders:
            yield data
            return
        for piece in decoders[0].decode(data):
            yield from self._decode(piece, decoders[1:])

    def _received(self) -> Iterator[memoryview]:
        """Yield what arrives; each piece is valid until the next one."""
        size, buffer = 0, memoryview(bytearray(BUFFER_SIZE))
        try:
            while count := self._response.readinto(buffer):
                size += count
                yield buffer[:count]
        except http.client.IncompleteRead as error:
            # Some servers leave out the last chunk. The inspection finds out whether the file is
            # whole.
            self.cut_short = f"{self._host}: the end of its chunks is missing"
            yield memoryview(error.partial)
        if self._response.length:
            raise FetchError(
                f"{self._host}: cut short, {size} of {size + self._response.length} bytes came"
            )


def _expect_plain_body(response: http.client.HTTPResponse, host: str) -> None:
    """Raise FetchError unless this is a whole file whose end is clearly marked."""
    if response.status in _GONE_STATUSES:
        raise SourceGoneError(f"{host} answered {response.status}")
    if response.status not in _WHOLE_STATUSES and not _is_whole_range(response):
        raise FetchError(f"{host} answered {response.status}")
    lengths = set(response.headers.get_all("Content-Length", []))
    unclear = len(lengths) > 1 or (lengths and response.length is None)
    if not response.chunked and (unclear or "Transfer-Encoding" in response.headers):
        raise FetchError(f"{host} does not say clearly where its answer ends")


def _is_whole_range(response: http.client.HTTPResponse) -> bool:
    """Return whether this is a 206 whose part is the whole file."""
    found = _WHOLE_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if response.status != HTTPStatus.PARTIAL_CONTENT or found is None:
        return False
    total = int(found[2])
    return int(found[1]) + 1 == total and response.length in {None, total}


@contextmanager
def _new_file(path: Path) -> Iterator[io.RawIOBase]:
    """Create a file that only this user can read. Remove it again after any error."""
    try:
        file = open(path, "xb", buffering=0, opener=lambda name, flags: os.open(name, flags, 0o600))  # noqa: SIM115 - closed by the `with` below
    except OSError as error:
        raise StoreError(f"cannot make {path}: {error.strerror}") from error
    try:
        with file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _write(file: io.RawIOBase, data: memoryview) -> None:
    try:
        while data:
            data = data[file.write(data) :]
    except OSError as error:
        raise StoreError(f"cannot write to the disk: {error.strerror}") from error
