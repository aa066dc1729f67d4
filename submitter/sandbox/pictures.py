"""Result files: real PNG, JPEG and WebP pictures and a small MP4, brought to a size by padding that every reader skips.

The bytes are a pure function of the arguments, so a file that was thrown away can be made again. Drawing costs some 20 ms per
megapixel, padding next to nothing; the padding stands before the picture's own data (in WebP after it), so a cut file has lost pixels.
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
_SEGMENT = 65_533  # what a JPEG comment can hold
_DIGEST = 32


def usual_size(seed: str, form: Format, width: int, height: int) -> int:
    """Give the size in bytes that a file of this kind has when nobody asked for one: 0.1 to 8 MB."""
    share = hashlib.sha256(seed.encode()).digest()[0] / 255
    per_pixel = {"png": 1.0, "jpeg": 0.3, "webp": 0.2, "mp4": 2.0}[form]
    return int(min(_LARGEST, max(_SMALLEST, width * height * per_pixel * (0.6 + 0.8 * share))))


def picture(
    seed: str, form: Format, width: int, height: int, size: int, look: str | None = None
) -> bytes:
    """Make one file of about ``size`` bytes; smaller than the drawing itself it cannot be.

    ``look`` is the seed of what is seen, by default ``seed``: files that share a look are drawn once and still differ in their bytes.
    """
    drawing = _drawing(look, form, width, height) if look else _draw(seed, form, width, height)
    return _PAD[form](drawing, _padding(seed, size - len(drawing)))


def _draw(seed: str, form: Format, width: int, height: int) -> bytes:
    from submitter.sandbox.draw import paint  # noqa: PLC0415 - Pillow is an extra: the other commands must start without it

    if form == "mp4":
        return mp4.movie(paint(seed, width, height, "jpeg"), width, height)
    return paint(seed, width, height, form)


_drawing = lru_cache(maxsize=128)(_draw)


@cache
def _noise() -> bytes:
    return random.Random(0).randbytes(2**20)  # noqa: S311 - filling, not a secret


def _padding(seed: str, size: int) -> bytes:
    """Give filling of ``size`` bytes that begins with the seed's own digest, so that no two files are equal."""
    block = hashlib.sha256(seed.encode()).digest()
    missing = max(0, size - _DIGEST)
    return b"".join(
        [block, *[_noise()] * (missing // len(_noise())), _noise()[: missing % len(_noise())]]
    )


def _pad_png(drawing: bytes, padding: bytes) -> bytes:
    """Put a private chunk behind IHDR (8 bytes of signature, 25 of header); its lower-case letters tell readers to skip it."""
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
    """Put comments behind the first segment, JFIF's, which has to stay the first."""
    first = 4 + int.from_bytes(drawing[4:6], "big")
    pieces = [drawing[:first]]
    for start in range(0, len(padding), _SEGMENT + 4):
        body = padding[start : start + _SEGMENT]
        pieces += [b"\xff\xfe", struct.pack(">H", len(body) + 2), body]
    return b"".join([*pieces, drawing[first:]])


def _pad_webp(drawing: bytes, padding: bytes) -> bytes:
    """Turn the simple file into an extended one (VP8X, no feature set), which alone may carry chunks readers do not know."""
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
