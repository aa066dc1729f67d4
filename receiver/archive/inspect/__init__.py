"""Structural inspection: which kind of picture or video a file is, and whether it is complete.

Only the structure of the file is read, in bounded time and memory; nothing is decoded, so there is
no decoder to attack. The type that the server or the URL claims is ignored. There are three
outcomes. The file is complete. Or it has a defect that viewers tolerate; it is accepted, because
the picture was paid for. Or it is cut short, or not the picture.
"""

import mmap
import re
from dataclasses import dataclass
from pathlib import Path

from receiver.archive.inspect import bmp, gif, iso_media, jpeg, png, webm, webp
from receiver.archive.inspect.reader import Data, Findings, quoted
from receiver.errors import NotThePictureError, StoreError
from receiver.model import Mark

__all__ = ["Picture", "inspect"]

_PICTURES = (  # first bytes, media type, extension, function that returns width and height
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png", "png", png.measure),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg", "jpg", jpeg.measure),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "image/webp", "webp", webp.measure),
    (re.compile(rb"GIF8[79]a"), "image/gif", "gif", gif.measure),
    (
        re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL),
        "image/bmp",
        "bmp",
        bmp.measure,
    ),
)
_CONTAINERS = (  # first bytes, function that returns media type, extension, width and height
    # Old QuickTime files begin without the box that names their brand.
    (re.compile(rb".{4}(?:ftyp|moov|mdat|wide|free|skip)", re.DOTALL), iso_media.measure),
    (re.compile(rb"\x1a\x45\xdf\xa3"), webm.measure),
)
_OTHER_KINDS = (  # kinds of files that are not pictures; for the error text
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
    (re.compile(rb"BM"), "an unusual BMP picture"),
    (re.compile(rb"II\*\0|MM\0\*"), "a TIFF picture"),
    (re.compile(rb"[\s\x20-\x7e]+\Z"), "plain text"),
)


@dataclass(frozen=True, slots=True)
class Picture:
    """What a file is: media type, extension (without dot), and size in pixels before any rotation.

    A video may have no dimensions. ``defect`` names mistakes that viewers tolerate, or is "".
    ``unfinished`` says what is missing at the end of the file although the whole picture is there,
    or is ""; another download may bring it. ``open_ended``: the format does not say where this file
    ends, so it is whole only if all bytes came.
    """

    content_type: str
    extension: str
    width: int | None
    height: int | None
    defect: str = ""
    marks: tuple[Mark, ...] = ()
    unfinished: str = ""
    open_ended: bool = False


def inspect(path: Path) -> Picture:
    """Return which picture (PNG, JPEG, WebP, GIF, AVIF, BMP) or video the file is.

    A video is MP4, MOV, 3GP, WebM or Matroska. Raise TruncatedError if the file is cut short,
    NotThePictureError if it is none of these or damaged; the text says what it looks like. Raise
    StoreError if the disk fails.
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
    found = Findings()
    for signature, content_type, extension, measure in _PICTURES:
        if signature.match(head):
            return _picture(data, found, content_type, extension, *measure(data, found))
    for signature, measure_container in _CONTAINERS:
        if signature.match(head):
            return _picture(data, found, *measure_container(data, found))
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()  # without byte order mark and white space
    kind = next(
        (name for pattern, name in _OTHER_KINDS if pattern.match(text)), "an unknown kind of file"
    )
    raise NotThePictureError(f"{kind}, not a picture (it begins with {quoted(head[:40])})")


def _picture(
    data: Data,
    found: Findings,
    content_type: str,
    extension: str,
    width: int | None,
    height: int | None,
) -> Picture:
    if found.end is not None and found.end < len(data):
        found.tolerate(f"{len(data) - found.end} bytes after the end of the file")
    return Picture(
        content_type,
        extension,
        width,
        height,
        "; ".join(found.defects),
        found.listed(),
        found.unfinished,
        found.open_ended,
    )
