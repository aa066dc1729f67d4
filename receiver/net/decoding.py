"""Content-Encoding: decodes gzip and deflate in bounded memory; other tokens mean no encoding.

We ask for no encoding. Some servers and proxies encode nevertheless, and some send tokens that are
not encodings (``utf-8``, ``aws-chunked``, ``none``). So the bytes decide: a file that is not
compressed is used as it is, whatever its header says.
"""

import zlib
from collections.abc import Iterator

from receiver.errors import FetchError

_GZIP = ("gzip", "x-gzip")
_DEFLATE = ("deflate",)
# Real encodings that we cannot decode.
_UNSUPPORTED = ("br", "zstd", "compress", "x-compress", "dcb", "dcz")
# A file that is compressed more often is an attack, not a picture.
_MAX_CODINGS = 2
_PIECE = 256 * 1024  # bytes that are decoded at a time
_GZIP_MAGIC = b"\x1f\x8b"


def codings(header: str, host: str) -> list[str]:
    """Return the encodings to decode, the last one first; raise FetchError if we cannot."""
    tokens = [token.strip().lower() for token in header.split(",")]
    if other := next((token for token in tokens if token in _UNSUPPORTED), None):
        raise FetchError(f"{host} sends Content-Encoding {other!a} unasked")
    known = [token for token in tokens if token in (*_GZIP, *_DEFLATE)]
    if len(known) > _MAX_CODINGS:
        raise FetchError(f"{host} sends {len(known)} encodings, one inside another")
    return known[::-1]


class Decoder:
    """Decodes one encoding; ``decoded`` says whether the bytes had it."""

    def __init__(self, coding: str) -> None:
        self.coding = "gzip" if coding in _GZIP else "deflate"
        self.decoded = False
        self._unpacker: zlib._Decompress | None = None
        self._begun = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Yield the decoded bytes in pieces; raise zlib.error if they are damaged."""
        if not self._begun and data:
            self._begun = True
            self._unpacker = self._unpacker_for(data)
            self.decoded = self._unpacker is not None
        if self._unpacker is None:
            yield data
            return
        while data and not (self._unpacker.eof and not data.startswith(_GZIP_MAGIC)):
            if self._unpacker.eof:  # one gzip file may follow another
                self._unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
            yield self._unpacker.decompress(data, _PIECE)
            data = self._unpacker.unconsumed_tail or self._unpacker.unused_data

    @property
    def is_complete(self) -> bool:
        """Whether the end of the encoded bytes was reached."""
        return self._unpacker is None or self._unpacker.eof

    def _unpacker_for(self, data: bytes) -> "zlib._Decompress | None":
        """Return what decompresses data with this beginning; None if it is not compressed."""
        if data.startswith(_GZIP_MAGIC):
            self.coding = "gzip"  # also where the header says deflate
            return zlib.decompressobj(zlib.MAX_WBITS | 16)
        if self.coding == "gzip":
            return None
        for window in (zlib.MAX_WBITS, -zlib.MAX_WBITS):  # some servers leave out zlib's head
            try:
                zlib.decompressobj(window).decompress(data, _PIECE)
            except zlib.error:
                continue
            return zlib.decompressobj(window)
        return None
