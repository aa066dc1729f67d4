"""Result files: real PNG, JPEG and WebP pictures and a small MP4, padded to the size asked for.

Every reader skips the padding. The bytes are a pure function of the arguments, so a deleted file
can be made again. Drawing costs about 20 ms per megapixel, padding almost nothing. The padding is
before the pixels (in WebP after them), so a file that is cut in half has lost pixels.
"""

import hashlib
import random
import struct
import zlib
from functools import cache, lru_cache
from typing import Literal

from submitter.sandbox import mp4

Format = Literal["png", "jpeg", "webp", "mp4"]

CONTENT_TYPES: dict[Format, str] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "mp4": "video/mp4",
}
EXTENSIONS: dict[Format, str] = {"png": "png", "jpeg": "jpg", "webp": "webp", "mp4": "mp4"}

_SMALLEST, _LARGEST = 100_000, 8_000_000
_SEGMENT = 65_533  # bytes of one JPEG comment
_DIGEST = 32


def default_size(seed: str, form: Format, width: int, height: int) -> int:
    """Return the size in bytes, 0.1 to 8 MB, of a file without a requested size."""
    share = hashlib.sha256(seed.encode()).digest()[0] / 255
    per_pixel = {"png": 1.0, "jpeg": 0.3, "webp": 0.2, "mp4": 2.0}[form]
    return int(min(_LARGEST, max(_SMALLEST, width * height * per_pixel * (0.6 + 0.8 * share))))


def picture(
    seed: str, form: Format, width: int, height: int, size: int, look: str | None = None
) -> bytes:
    """Return one file of about ``size`` bytes, at least as many as the drawing needs.

    ``look`` is the seed of the drawing, by default ``seed``: files with the same look are drawn
    once, and their bytes still differ.
    """
    drawing = _drawing(look, form, width, height) if look else _draw(seed, form, width, height)
    return _PAD[form](drawing, _padding(seed, size - len(drawing)))


def _draw(seed: str, form: Format, width: int, height: int) -> bytes:
    from submitter.sandbox.draw import draw_landscape  # noqa: PLC0415 - Pillow loads slowly, and only the sandbox draws

    if form == "mp4":
        return mp4.movie(draw_landscape(seed, width, height, "jpeg"), width, height)
    return draw_landscape(seed, width, height, form)


_drawing = lru_cache(maxsize=128)(_draw)


@cache
def _noise() -> bytes:
    return random.Random(0).randbytes(2**20)  # noqa: S311 - filling, not a secret


def _padding(seed: str, size: int) -> bytes:
    """Return ``size`` bytes; they begin with the seed's digest, so no two files are equal."""
    block = hashlib.sha256(seed.encode()).digest()
    missing = max(0, size - _DIGEST)
    return b"".join(
        [block, *[_noise()] * (missing // len(_noise())), _noise()[: missing % len(_noise())]]
    )


def _pad_png(drawing: bytes, padding: bytes) -> bytes:
    """Insert a private chunk after IHDR; its lower-case letters tell readers to skip it.

    IHDR ends at byte 33: 8 bytes of signature and 25 of header.
    """
    body = padding[: max(_DIGEST, len(padding) - 12)]
    checksum = zlib.crc32(body, zlib.crc32(b"spAd"))
    return b"".join(
        [
            drawing[:33],
            struct.pack(">I", len(body)),
            b"spAd",
            body,
            struct.pack(">I", checksum),
            drawing[33:],
        ]
    )


def _pad_jpeg(drawing: bytes, padding: bytes) -> bytes:
    """Insert comments after the first segment, which must be the JFIF segment."""
    first = 4 + int.from_bytes(drawing[4:6], "big")
    pieces = [drawing[:first]]
    for start in range(0, len(padding), _SEGMENT + 4):
        body = padding[start : start + _SEGMENT]
        pieces += [b"\xff\xfe", struct.pack(">H", len(body) + 2), body]
    return b"".join([*pieces, drawing[first:]])


def _pad_webp(drawing: bytes, padding: bytes) -> bytes:
    """Convert the file to the extended format (VP8X), which may have unknown chunks."""
    width, height = struct.unpack("<HH", drawing[26:30])
    extended = b"VP8X" + struct.pack("<I", 10) + bytes(4) + _three(width - 1) + _three(height - 1)
    body = padding[: max(_DIGEST, len(padding) - 26) & ~1]
    chunks = b"".join(
        [b"WEBP", extended, drawing[12:], b"spad", struct.pack("<I", len(body)), body]
    )
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def _three(number: int) -> bytes:
    return struct.pack("<I", number)[:3]


_PAD = {"png": _pad_png, "jpeg": _pad_jpeg, "webp": _pad_webp, "mp4": mp4.pad}
