"""The stream of a service's events, read without blocking longer than asked."""

import select
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import urlsplit

# Seconds to connect, and seconds before a stream that was refused or cut is requested again.
_CONNECT, _AGAIN = 10.0, 5.0


class EventStream:
    """Waits for events of a service; reconnects by itself. While it cannot, waits time out."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._url = urlsplit(url)
        self._headers = {**headers, "Accept": "text/event-stream"}
        self._connection: HTTPConnection | None = None
        self._response: HTTPResponse | None = None
        self._socket: socket.socket | None = None
        self._again_at = 0.0

    def close(self) -> None:
        """Close the stream."""
        for part in (self._response, self._connection):
            if part is not None:
                with suppress(OSError):
                    part.close()
        self._response = self._connection = None

    def wait(self, seconds: float) -> None:
        """Return when an event comes, or after ``seconds``."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._response is None and not self._connect():
                time.sleep(min(left, 0.5))
                continue
            try:
                if self._is_event(max(0.0, end - time.monotonic())):
                    return
            except (OSError, HTTPException):
                self._give_up()

    def _connect(self) -> bool:
        """Open the stream; return False if it cannot be opened yet."""
        if time.monotonic() < self._again_at:
            return False
        kind = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
        try:
            self._connection = kind(self._url.netloc, timeout=_CONNECT)
            self._connection.request("GET", self._url.path, headers=self._headers)
            self._socket = self._connection.sock  # the connection may drop it
            self._response = self._connection.getresponse()
        except (OSError, HTTPException):
            self._give_up()
            return False
        if self._response.status != HTTPStatus.OK:
            self._give_up()
            return False
        return True

    def _give_up(self) -> None:
        self.close()
        self._again_at = time.monotonic() + _AGAIN

    def _is_event(self, seconds: float) -> bool:
        """Return whether an event arrived within ``seconds``; raise OSError at the end."""
        assert self._socket is not None  # noqa: S101 - opened by _connect
        assert self._response is not None  # noqa: S101 - as above
        if not _is_readable(self._socket, seconds):
            return False
        received = self._response.read1(65536)
        if not received:
            raise ConnectionResetError
        return b"data:" in received


def _is_readable(connected: socket.socket, seconds: float) -> bool:
    if isinstance(connected, ssl.SSLSocket) and connected.pending():
        return True
    return bool(select.select([connected], [], [], seconds)[0])
