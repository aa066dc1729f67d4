"""JPEG (ITU-T T.81, annex B): marker segments and scans from SOI to EOI.

The size is in the frame header (SOF). As in libjpeg, two faults are tolerated: stray bytes before a
marker, and the wrong lengths of comments and application segments that cause them. A file that ends
before EOI is unfinished if its scans have all blocks.
"""

import re
import struct

from receiver.archive.inspect import jpeg_scans
from receiver.archive.inspect.reader import (
    MAX_PARTS,
    Data,
    Findings,
    check_dimensions,
    read_fields,
    truncated,
)
from receiver.errors import NotThePictureError, TruncatedError

_SEGMENT = struct.Struct(">H")  # length, itself included
_FRAME = struct.Struct(">HBHHB")  # length, precision, height, width, components
_JUMBF = struct.Struct(">2sHII4s")  # "JP", box instance, packet number; the box's length and type
# The pattern is not "\xff+": a search would try every byte of a long run, each to its end.
_MARKER = re.compile(rb"\xff([^\x00\xff])")
_FILL = re.compile(rb"\xff*")  # bytes that may stand before a marker
# The end of a scan: stuffed bytes (FF00) and restart markers (D0-D7) belong to the scan.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
# All SOF markers; DHT, JPG and DAC have numbers between them.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a segment
_APP1, _APP11, _APP13, _COMMENT = 0xE1, 0xEB, 0xED, 0xFE
_SKIPPED = frozenset({*range(0xE0, 0xF0), _COMMENT})  # segments without which a picture decodes
_TEXTS = (  # first bytes of an application segment, kind of mark
    (_APP1, b"Exif\0", "exif"),
    (_APP1, b"http://ns.adobe.com/xap/1.0/\0", "xmp"),
    (_APP1, b"http://ns.adobe.com/xmp/extension/\0", "xmp"),
    (_APP13, b"Photoshop 3.0\0", "iptc"),
)


def measure(data: Data, found: Findings) -> tuple[int, int]:
    """Walk all segments and scans up to the end marker; return width and height in pixels."""
    try:
        return _walk(data, found)
    except TruncatedError:
        size = jpeg_scans.size_if_whole(data)
        if size is None:
            raise
        found.unfinished = "the end marker of the JPEG file (EOI) is missing"
        return size


def _walk(data: Data, found: Findings) -> tuple[int, int]:
    size, scanned, at = None, False, 2
    for _ in range(MAX_PARTS):
        marker, at = _marker(data, at, found)
        if marker == _END:
            if size is None or not scanned:
                raise NotThePictureError("a JPEG file without a picture in it")
            found.end = at
            return size
        if marker in _BARE:
            continue
        if marker == _START:
            raise TruncatedError(f"cut short: another JPEG file begins at byte {at - 2}")
        if marker in _FRAMES and size is None:
            size = _frame(data, at)
        after = _skip(data, at, marker, found)
        _mark(data, marker, at + _SEGMENT.size, after, found)
        at = after
        if marker == _SCAN:
            scanned = True
            at = _end_of_scan(data, at)
    raise NotThePictureError(f"a JPEG file of more than {MAX_PARTS} segments")


def _marker(data: Data, at: int, found: Findings) -> tuple[int, int]:
    """Return the next marker from an offset on, and the offset of its segment."""
    next_one = _MARKER.search(data, at)
    if next_one is None:
        raise truncated("the JPEG file", len(data) + 2, len(data))
    if (fill := _FILL.match(data, at)) and fill.end() < next_one.start():
        found.tolerate("stray bytes between JPEG segments")
    return next_one[1][0], next_one.end()


def _frame(data: Data, at: int) -> tuple[int, int]:
    _, _, height, width, _ = read_fields(_FRAME, data, at)
    return check_dimensions(width, height)


def _skip(data: Data, at: int, marker: int, found: Findings) -> int:
    """Return the offset after a segment."""
    (length,) = read_fields(_SEGMENT, data, at)
    if length < _SEGMENT.size:
        if marker not in _SKIPPED:
            raise NotThePictureError(f"a damaged JPEG file: a segment of {length} bytes at {at}")
        found.tolerate("wrong length of a JPEG segment")
        length = _SEGMENT.size
    if at + length > len(data):
        raise truncated("a JPEG segment", at + length, len(data))
    return int(at + length)


def _end_of_scan(data: Data, at: int) -> int:
    found = _NEXT_MARKER.search(data, at)
    if found is None:
        raise TruncatedError(f"cut short: the JPEG file ends within a scan, at byte {len(data)}")
    return found.start()


def _mark(data: Data, marker: int, start: int, end: int, found: Findings) -> None:
    """Record what a segment says about the picture's origin."""
    if marker == _COMMENT:
        found.mark_text("text", "COM", data, start, end)
    elif marker == _APP11 and end - start >= _JUMBF.size:
        common, _, packet, _, kind = read_fields(_JUMBF, data, start)
        if common == b"JP" and kind == b"jumb":
            # Only the first packet of a box has its name.
            is_c2pa = data.find(b"c2pa", start, min(end, start + 64)) >= 0 or (
                packet > 1 and ("c2pa", "APP11") in found.marks
            )
            found.mark("c2pa" if is_c2pa else "jumbf", "APP11", end - start)
    for owner, first, kind in _TEXTS:
        if marker == owner and data[start : start + len(first)] == first:
            found.mark_text(kind, f"APP{marker - 0xE0}", data, start + len(first), end)
