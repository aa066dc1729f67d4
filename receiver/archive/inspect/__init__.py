"""Structural inspection: which kind of picture or video a file is, and whether it is complete.

Only the structure of the file is read, in bounded time and memory; nothing is decoded, so there is
no decoder to attack. The type that the server or the URL claims is ignored. Bytes after the end of
a PNG, JPEG, GIF or WebP file are accepted, because decoders ignore them and the picture was paid
for. A file that is cut short is refused.
"""

import mmap
import re
from dataclasses import dataclass
from pathlib import Path

from receiver.archive.inspect import avif_mp4, gif, jpeg, png, webm, webp
from receiver.archive.inspect.reader import Data
from receiver.errors import NotThePictureError, StoreError

__all__ = ["Picture", "inspect"]

_FORMATS = (  # first bytes, media type, extension, function that returns width and height
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png", "png", png.measure),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg", "jpg", jpeg.measure),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "image/webp", "webp", webp.measure),
    (re.compile(rb"GIF8[79]a"), "image/gif", "gif", gif.measure),
    (re.compile(rb"\x1a\x45\xdf\xa3"), "video/webm", "webm", webm.measure),
    # AVIF and MP4 begin alike; avif_mp4 distinguishes them by their brands.
    (re.compile(rb".{4}ftyp", re.DOTALL), "", "", None),
)
_OTHER_KINDS = (  # what a file may be that is no picture; for the error text
    (
        re.compile(
            rb"(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?(?:<!doctype svg[^>]*>\s*)?<svg",
            re.IGNORECASE | re.DOTALL,
        ),
        "an SVG drawing",
    ),
    (
        re.compile(
            rb"(?:<!--.*?-->\s*)?<(?:!doctype html|html|head|body|title|script|h1)",
            re.IGNORECASE | re.DOTALL,
        ),
        "an HTML page",
    ),
    (re.compile(rb"<[?!a-z]", re.IGNORECASE), "an XML document"),
    (re.compile(rb"[{\[]"), "a JSON document"),
    (re.compile(rb"%PDF-"), "a PDF document"),
    (re.compile(rb"PK\x03\x04"), "a ZIP archive"),
    (re.compile(rb"\x1f\x8b"), "gzip data"),
    (re.compile(rb"BM"), "a BMP picture"),
    (re.compile(rb"II\*\0|MM\0\*"), "a TIFF picture"),
    (re.compile(rb"[\s\x20-\x7e]+\Z"), "plain text"),
)


@dataclass(frozen=True, slots=True)
class Picture:
    """What a file is: media type, extension (without dot), and size in pixels before any rotation.

    A video may have no dimensions.
    """

    content_type: str
    extension: str
    width: int | None
    height: int | None


def inspect(path: Path) -> Picture:
    """Return which picture (PNG, JPEG, WebP, GIF, AVIF) or video (MP4, WebM) the file is.

    Raise NotThePictureError if it is none of these or incomplete; the text says what it looks like.
    Raise StoreError if the disk fails.
    """
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise NotThePictureError("an empty file, not a picture")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _examine(data)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error


def _examine(data: Data) -> Picture:
    head = data[:512]
    for signature, content_type, extension, measure in _FORMATS:
        if signature.match(head):
            if measure is None:
                return Picture(*avif_mp4.measure(data))
            return Picture(content_type, extension, *measure(data))
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()  # without byte order mark and white space
    kind = next(
        (name for pattern, name in _OTHER_KINDS if pattern.match(text)), "an unknown kind of file"
    )
    raise NotThePictureError(f"{kind}, not a picture (it begins with {head[:40]!r})")
