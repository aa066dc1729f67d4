"""AVIF, MP4, MOV and 3GP: ISO base media files, which their brands tell apart.

The boxes are walked, not decoded. If the last box would end after the file, the file is cut. If the
missing part contains nothing of the picture or video, the file is only unfinished.
"""

import re

from receiver.archive.inspect import avif, mp4
from receiver.archive.inspect.boxes import Box, Top, Walk
from receiver.archive.inspect.reader import Data, Findings, quoted, truncated
from receiver.errors import NotThePictureError

_AVIF = frozenset({b"avif", b"avis"})
_VIDEOS = (  # brands, media type, extension; the first that matches the major brand, then any
    (re.compile(rb"qt  "), "video/quicktime", "mov"),
    (re.compile(rb"3g[eprs][0-9a-z]"), "video/3gpp", "3gp"),
    (re.compile(rb"3g2[a-z]"), "video/3gpp2", "3g2"),
    (
        re.compile(
            rb"iso[m2-9a-z]|mp4[12]|mp71|avc1|av01|hvc1|dash|msdh|cmf[cf2]|M4V |M4VP|MSNV|f4v "
        ),
        "video/mp4",
        "mp4",
    ),
)
_INDEXES = frozenset({b"ftyp", b"meta", b"moov"})  # without the end of these nothing is known
_MAX_BRANDS = 256
_UUID = 16  # bytes of the type of a "uuid" box
_UUIDS = {
    bytes.fromhex("d8fec3d61b0e483c92975828877ec481"): "c2pa",
    bytes.fromhex("be7acfcb97a942e89c71999491e3afac"): "xmp",
}


def measure(data: Data, found: Findings) -> tuple[str, str, int | None, int | None]:
    """Walk the file; return media type, extension, width and height."""
    walk = Walk(data)
    top = walk.top(found)
    ftyp = next(walk.find(top.boxes, b"ftyp"), None)
    brands = _brands(data, ftyp) if ftyp else [b"qt  "]
    _mark(data, walk, top, found)
    if _AVIF & set(brands):
        size, needed = avif.measure(walk, top, found)
        _check_end(data, top, needed, found)
        return "image/avif", "avif", *size
    content_type, extension = _video(brands)
    dimensions, end = mp4.measure(walk, top, found)
    _check_end(data, top, end, found)
    return content_type, extension, *dimensions


def _brands(data: Data, ftyp: Box) -> list[bytes]:
    """Return the major brand and the compatible brands."""
    end = min(ftyp.end, ftyp.start + 4 * _MAX_BRANDS)
    return [bytes(data[at : at + 4]) for at in range(ftyp.start, end, 4) if at != ftyp.start + 4]


def _video(brands: list[bytes]) -> tuple[str, str]:
    """Return media type and extension of a video."""
    for some in (brands[:1], brands):
        for pattern, content_type, extension in _VIDEOS:
            if any(pattern.fullmatch(brand) for brand in some):
                return content_type, extension
    raise NotThePictureError(
        f"a file of brand {quoted(b''.join(brands[:1]))}, neither an AVIF picture nor a video"
    )


def _check_end(data: Data, top: Top, needed: int | None, found: Findings) -> None:
    """Check the end of the file against the last byte that is needed; None if it is unknown."""
    size = len(data)
    if needed is not None and needed > size:
        raise truncated("the file's media data", needed, size)
    if top.cut:
        if needed is None or top.cut.name in _INDEXES:
            raise truncated(f"box {quoted(top.cut.name)}", top.cut.end, size)
        found.unfinished = f"the end of the last box ({top.cut.name.decode('latin-1')}) is missing"
    if top.endless and needed is None:
        found.open_ended = True


def _mark(data: Data, walk: Walk, top: Top, found: Findings) -> None:
    """Record the boxes that say something about the origin."""
    for box in top.boxes:
        if box.name == b"uuid" and box.end - box.start >= _UUID:
            kind = _UUIDS.get(bytes(data[box.start : box.start + _UUID]))
            if kind:
                found.mark_text(kind, "uuid", data, box.start + _UUID, box.end)
    for box in walk.find(top.boxes, b"moov"):
        for inner in walk.inside(box):
            if inner.name in {b"udta", b"meta"}:
                found.mark_text("text", inner.name, data, inner.start, inner.end)
