"""JPEG (ITU-T T.81, annex B): marker segments and scans from SOI to EOI.

The size is in the frame header (SOF).
"""

import re
import struct

from receiver.archive.inspect.reader import (
    MAX_PARTS,
    Data,
    check_dimensions,
    read_fields,
    truncated,
)
from receiver.errors import NotThePictureError

_SEGMENT = struct.Struct(">H")  # length, itself included
_FRAME = struct.Struct(">HBHHB")  # length, precision, height, width, components
_MARKER = re.compile(rb"\xff+([^\x00\xff])")
# The end of a scan: stuffed bytes (FF00) and restart markers (D0-D7) belong to the scan.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
# All SOF markers; DHT, JPG and DAC have numbers between them.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN, _END = 0xDA, 0xD9
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a segment


def measure(data: Data) -> tuple[int, int]:
    """Walk all segments and scans up to the end marker; return width and height in pixels."""
    size, scanned, at = None, False, 2
    for _ in range(MAX_PARTS):
        marker, at = _marker(data, at)
        if marker == _END:
            if size is None or not scanned:
                raise NotThePictureError("a JPEG file without a picture in it")
            return size
        if marker in _BARE:
            continue
        if marker in _FRAMES and size is None:
            size = _frame(data, at)
        at = _skip(data, at)
        if marker == _SCAN:
            scanned = True
            at = _end_of_scan(data, at)
    raise NotThePictureError(f"a JPEG file of more than {MAX_PARTS} segments")


def _marker(data: Data, at: int) -> tuple[int, int]:
    """Return the marker at an offset, and the offset of its segment."""
    found = _MARKER.match(data, at)
    if found is None:
        if at >= len(data) - 1:
            raise truncated("the JPEG file", len(data) + 2, len(data))
        raise NotThePictureError(f"a damaged JPEG file: no marker at byte {at}")
    return found[1][0], found.end()


def _frame(data: Data, at: int) -> tuple[int, int]:
    _, _, height, width, _ = read_fields(_FRAME, data, at)
    return check_dimensions(width, height)


def _skip(data: Data, at: int) -> int:
    (length,) = read_fields(_SEGMENT, data, at)
    if length < _SEGMENT.size:
        raise NotThePictureError(f"a damaged JPEG file: a segment of {length} bytes at {at}")
    if at + length > len(data):
        raise truncated("a JPEG segment", at + length, len(data))
    return int(at + length)


def _end_of_scan(data: Data, at: int) -> int:
    found = _NEXT_MARKER.search(data, at)
    if found is None:
        raise NotThePictureError("cut short: the JPEG file ends within a scan")
    return found.start()
