"""An HTTP response: its head, read more generously than ``http.client`` does, and its end.

Interim responses (103 Early Hints) are skipped, and the number of headers is limited only by their
bytes. Only those headers count that describe the body. Equal ones may be repeated. But a connection
is used again only after a response that is plain in every respect.
"""

import http.client
import io
import re
from typing import Any, cast

from receiver.net.connection import DeadlineSocket

HTTP_1_1 = 11  # as http.client counts
_MAX_LINE = 65_536  # bytes, as in http.client
_INTERIM = re.compile(rb"HTTP/1\.[01] 1(?!01)[0-9][0-9]\b")
# Lists of tokens, where a repeated token means the same as one.
_LISTS = (b"content-length", b"transfer-encoding")
_WANTED = (
    *_LISTS,
    b"connection",
    b"content-encoding",
    b"content-type",
    b"content-range",
    b"location",
    b"retry-after",
)
# A header line without any freedom.
_PLAIN_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)\r\n")


class Response(http.client.HTTPResponse):
    """A response whose head was read. Raise what http.client raises."""

    # http.client closes it at the end, also if the head could not be read.
    fp: Any = None

    def __init__(self, sock: DeadlineSocket, method: str) -> None:
        self._sock = sock
        self._reader = sock.makefile("rb")
        head, self._is_plain = _read_head(self._reader)
        source = cast("Any", _Replay(head, self._reader))
        super().__init__(source, method=method)
        self.begin()

    def leaves_clean_connection(self) -> bool:
        """Return whether another request may follow on the connection. Nothing is read any more.

        The body must have ended where Content-Length says, with no byte after it: extra bytes would
        look like the beginning of the next response. Chunked bodies are read generously, so their
        end is not certain enough.
        """
        self._sock.finish()
        return (
            self._is_plain
            and not self.will_close
            and self.version == HTTP_1_1
            and self.length == 0
            and not self._reader.peek(1)
        )


def _read_head(reader: io.BufferedReader) -> tuple[bytes, bool]:
    """Return the head for http.client, and whether all of it was plain."""
    is_plain = True
    while True:
        first = _line(reader, "status line")
        if not first.startswith(b"HTTP/"):
            return first, False  # for http.client to complain about
        raw = _raw_lines(reader)
        if not _INTERIM.match(first):
            return first + _wanted(_unfolded(raw)) + b"\r\n", is_plain and _are_plain(first, raw)
        is_plain = False


def _are_plain(first: bytes, lines: list[bytes]) -> bool:
    """Return whether the lines make the length of the body certain."""
    lengths = []
    for line in lines:
        found = _PLAIN_LINE.fullmatch(line)
        if found is None or found[1].lower() == b"transfer-encoding":
            return False
        if found[1].lower() == b"content-length":
            lengths.append(found[2].rstrip(b" \t"))
    if b" 204" in first[:12]:
        return not lengths
    return len(lengths) == 1 and lengths[0].isdigit()


def _line(reader: io.BufferedReader, what: str) -> bytes:
    line = reader.readline(_MAX_LINE + 1)
    if len(line) > _MAX_LINE:
        raise http.client.LineTooLong(what)
    return line


def _raw_lines(reader: io.BufferedReader) -> list[bytes]:
    lines: list[bytes] = []
    while (line := _line(reader, "header line")).strip(b"\r\n"):
        lines.append(line)
    return lines


def _unfolded(raw: list[bytes]) -> list[bytes]:
    lines: list[bytes] = []
    for line in raw:
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


class _Replay:
    """What HTTPResponse takes for a socket and its stream: our head, then what arrives."""

    def __init__(self, head: bytes, rest: io.BufferedReader) -> None:
        self._head = io.BytesIO(head)
        self._rest = rest
        self.read = rest.read
        self.readinto = rest.readinto

    def makefile(self, _mode: str) -> "_Replay":
        """Return this: HTTPResponse asks its socket for a stream."""
        return self

    def readline(self, limit: int = -1) -> bytes:
        """Read a line of the head, later of a chunk."""
        return self._head.readline(limit) or self._rest.readline(limit)

    def flush(self) -> None:
        """Do nothing: nothing is written."""

    def close(self) -> None:
        """Leave the stream open; its socket is closed or used again."""
