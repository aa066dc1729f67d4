"""The head of an HTTP response, read more generously than ``http.client`` does.

Interim responses (103 Early Hints) are skipped, and the number of headers is limited only by their
bytes. Of the headers only those count that say what the body is. Equal ones may be repeated.
"""

import http.client
import io
import re
from typing import cast

from receiver.net.connection import DeadlineSocket

_MAX_LINE = 65_536  # bytes, as in http.client
_INTERIM = re.compile(rb"HTTP/1\.[01] 1(?!01)[0-9][0-9]\b")
# Lists of tokens, where a repeated token means the same as one.
_LISTS = (b"content-length", b"transfer-encoding")
_WANTED = (*_LISTS, b"content-encoding", b"content-type", b"content-range", b"location")


def open_response(sock: DeadlineSocket) -> http.client.HTTPResponse:
    """Return the response on a socket after reading its head; raise what http.client raises."""
    reader = sock.makefile("rb")
    source = _Source(_read_head(reader), reader)
    response = http.client.HTTPResponse(cast("socket.socket", source), method="GET")  # type: ignore[name-defined] # noqa: F821 - only its makefile is called
    response.begin()
    return response


def _read_head(reader: io.BufferedReader) -> bytes:
    while True:
        first = _line(reader, "status line")
        if not first.startswith(b"HTTP/"):
            return first  # for http.client to complain about
        lines = _header_lines(reader)
        if not _INTERIM.match(first):
            return first + _wanted(lines) + b"\r\n"


def _line(reader: io.BufferedReader, what: str) -> bytes:
    line = reader.readline(_MAX_LINE + 1)
    if len(line) > _MAX_LINE:
        raise http.client.LineTooLong(what)
    return line


def _header_lines(reader: io.BufferedReader) -> list[bytes]:
    lines: list[bytes] = []
    while (line := _line(reader, "header line")).strip(b"\r\n"):
        if line[:1] in (b" ", b"\t") and lines:
            lines[-1] += b" " + line.strip()  # the old way to break a long header
        else:
            lines.append(line.strip())
    return lines


def _wanted(lines: list[bytes]) -> bytes:
    """Return the headers that matter, each value once."""
    found: dict[tuple[bytes, bytes], None] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        name = name.strip().lower()
        if colon and name in _WANTED:
            if name in _LISTS:
                value = b", ".join(dict.fromkeys(part.strip() for part in value.split(b",")))
            found[name, value.strip()] = None
    return b"".join(b"%b: %b\r\n" % pair for pair in found)


class _Source(io.RawIOBase):
    """What HTTPResponse takes for a socket: the head that we made, then the rest of the stream."""

    def __init__(self, head: bytes, rest: io.BufferedReader) -> None:
        self._head = memoryview(head)
        self._rest = rest

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return the buffered reader that HTTPResponse asks its socket for."""
        return io.BufferedReader(self, 64 * 1024)

    def readable(self) -> bool:
        """Return True: BufferedReader checks it."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override] # the buffer type of typeshed exists for checkers only
        """Read what is left of the head, then what arrives."""
        if not self._head:
            return self._rest.readinto1(buffer)
        count = min(len(buffer), len(self._head))
        buffer[:count] = self._head[:count]
        self._head = self._head[count:]
        return count
