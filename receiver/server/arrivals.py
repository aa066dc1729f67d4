"""Requests while they arrive: when one can be handled without waiting for its client.

gunicorn parses every request itself. The results here only decide when a request gets a thread. So
any unusual request counts as unclear, never as complete.
"""

import re

from receiver.server.request_timeout import REQUEST_TIMEOUT

# Seconds without a byte of a request that has begun.
READ_TIMEOUT = 5
# Bytes that are kept of a request outside the threads. A callback may have 1 MiB by default.
MAX_HEAD, MAX_REQUEST = 64 * 1024, 2 * 1024 * 1024
# Most bytes of the first line, with its end, that gunicorn accepts. A search of 500 Chinese
# characters is 4,500 bytes in a URL.
MAX_FIRST_LINE = 8192

_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*(?=\r\n)")
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*(?=\r\n)")
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})(?:[ \t]*;[^\r\n]*)?\r\n")


class Arrival:
    """The bytes that have arrived of one request, and any bytes after it.

    ``since`` is when it was first waited for, ``heard`` when the last byte came, both in monotonic
    seconds. ``is_complete`` means that gunicorn can read all of it without waiting.
    ``has_ended`` is set when nothing more will be read: at the end of the stream or the deadline.
    """

    __slots__ = ("_chunk_at", "_length", "body_at", "data", "has_ended", "heard", "is_complete",
                 "is_too_much", "party", "since")  # fmt: skip

    def __init__(self, party: str, now: float) -> None:
        self.party = party
        self.since = self.heard = now
        self.data = bytearray()
        self.body_at = -1  # where the body begins, when the head is complete
        self.is_complete = self.is_too_much = self.has_ended = False
        self._length: int | None = None  # length of the body; None: it is chunked or unclear
        self._chunk_at = -1  # where the next chunk begins, -1: the body is not chunked

    def add(self, data: bytes, now: float) -> None:
        """Add what has arrived."""
        if not self.data:
            self.since = now
        self.heard = now
        searched = max(0, len(self.data) - len(_HEAD_END))
        self.data += data
        if self.body_at < 0 and (end := self.data.find(_HEAD_END, searched)) >= 0:
            self.body_at = end + len(_HEAD_END)
            self._read_framing(bytes(self.data[: end + 2]).lower())
        self.is_complete = self.body_at > 0 and self._has_body()
        self.is_too_much = not self.is_complete and self._exceeds_limits()

    @property
    def needs_thread(self) -> bool:
        """Whether a thread has to read it although it is not complete.

        The head is there, so it may be answered without its body; or nothing more is read here.
        """
        return self.body_at > 0 or self.is_too_much or (self.has_ended and bool(self.data))

    @property
    def is_line_too_long(self) -> bool:
        """Whether the first line is longer than gunicorn accepts."""
        return len(self.data) >= MAX_FIRST_LINE and self.data.find(b"\r\n", 0, MAX_FIRST_LINE) < 0

    def is_late(self, now: float, idle_timeout: float) -> bool:
        """Return whether the client took too long; ``idle_timeout`` is for its first byte."""
        if not self.data:
            return now - self.since > idle_timeout
        return now - self.heard > READ_TIMEOUT or now - self.since > REQUEST_TIMEOUT

    def _read_framing(self, head: bytes) -> None:
        """Find out from the head, in lower case, how the body ends."""
        lengths, chunked = _LENGTH.findall(head), _CHUNKED.findall(head)
        mentioned = head.count(b"content-length") + head.count(b"transfer-encoding")
        if head == b"\r\n" or mentioned != len(lengths) + len(chunked) or mentioned > 1:
            return  # unclear
        if chunked:
            self._chunk_at = self.body_at
        else:
            self._length = int(lengths[0]) if lengths else 0

    def _has_body(self) -> bool:
        if self._length is not None:
            return len(self.data) - self.body_at >= self._length
        while self._chunk_at >= 0 and (found := _CHUNK_SIZE.match(self.data, self._chunk_at)):
            size = int(found[1], 16)
            if size == 0:  # trailers may follow
                return self.data.find(_HEAD_END, found.end() - 2) >= 0
            following = found.end() + size + 2
            if following > len(self.data):
                return False
            self._chunk_at = following
        return False

    def _exceeds_limits(self) -> bool:
        """Return whether no more is kept of it here, or it can only be refused."""
        if self.body_at > 0:
            return max(len(self.data), self.body_at + (self._length or 0)) > MAX_REQUEST
        lines = self.data.count(b"\n")
        return (
            self.is_line_too_long
            or len(self.data) > MAX_HEAD
            or lines != self.data.count(b"\r\n")  # a head with a bare LF never ends
        )
