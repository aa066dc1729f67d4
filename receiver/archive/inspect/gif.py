"""GIF (GIF89a specification): header, extensions and pictures made of sub-blocks, trailer.

A file that ends without its trailer is unfinished if its last picture has all pixels. If something
else stands in place of the trailer, the last picture must have all pixels too: zeros in a file that
was allocated in advance look like the end of a picture.
"""

import struct

from receiver.archive.inspect.reader import (
    MAX_PARTS,
    Data,
    Findings,
    check_dimensions,
    check_frames,
    read_fields,
    truncated,
)
from receiver.errors import NotThePictureError, TruncatedError

_SCREEN = struct.Struct("<6xHHB2x")  # width, height, flags
_PICTURE = struct.Struct("<4xHHB")  # width, height and flags of an image descriptor
_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B
_BLOCKS = frozenset({_EXTENSION, _IMAGE, _TRAILER})
_CONTROL, _COMMENT, _APPLICATION = 0xF9, 0xFE, 0xFF  # kinds of extensions
_APPLICATIONS = {b"XMP DataXMP": "xmp", b"C2PA_GIF\1\0\0": "c2pa"}
_HAS_TABLE = 0x80
_NO_END = "the end of the GIF file (its trailer) is missing"
# Bytes: in no larger picture without its end pixels are counted, which takes a second a megabyte.
_MAX_COUNTED = 4 << 20
_MAX_CODE, _MAX_CODE_SIZE, _LARGEST_ALPHABET = 1 << 12, 12, 8
_MAX_SUB_BLOCKS = 4_000_000  # of at most 255 bytes: 1 GB


def measure(data: Data, found: Findings) -> tuple[int, int]:
    """Walk all blocks up to the trailer; return width and height in pixels."""
    width, height, flags = read_fields(_SCREEN, data, 0)
    at, drawn, left = 13 + _table(flags), 0, _MAX_SUB_BLOCKS
    size, last, is_controlled = (width, height), None, False
    for _ in range(MAX_PARTS):
        kind = _next_block(data, at, found, None if is_controlled else last)
        if kind == _TRAILER:
            if not drawn:
                raise NotThePictureError("a GIF file without a picture in it")
            found.end = at + 1
            return check_dimensions(*size)
        if kind == _IMAGE and not all(size):
            size = read_fields(_PICTURE, data, at + 1)[:2]  # browsers take the first frame's size
        start = _contents(data, at, kind)
        try:
            after, left = _sub_blocks(data, start, left)
        except TruncatedError:
            if kind != _IMAGE or not _has_all_pixels(data, at, start):
                raise
            found.unfinished = _NO_END
            return check_dimensions(*size)
        if kind == _EXTENSION:
            _mark(data, at, after, found)
        # A control extension is the beginning of another frame.
        is_controlled = kind == _EXTENSION and data[at + 1] == _CONTROL
        if kind == _IMAGE:
            drawn, last = drawn + 1, (at, start)
        check_frames(drawn)
        at = after
    raise NotThePictureError(f"a GIF file of more than {MAX_PARTS} blocks")


def _next_block(data: Data, at: int, found: Findings, last: tuple[int, int] | None) -> int:
    """Return the kind of block at an offset; the trailer if a file of whole frames ends there.

    ``last`` says where the picture before it and its sub-blocks begin.
    """
    if at == len(data) and last:
        found.unfinished = _NO_END
        return _TRAILER
    kind = _byte(data, at)
    if kind not in _BLOCKS and last:
        if at - last[1] <= _MAX_COUNTED and not _has_all_pixels(data, *last):
            raise TruncatedError(f"cut short: the GIF picture ends at byte {at}, with pixels left")
        found.tolerate("stray bytes in place of the GIF file's trailer")
        return _TRAILER
    return kind


def _contents(data: Data, at: int, kind: int) -> int:
    """Return the offset where the sub-blocks of a block begin."""
    if kind == _EXTENSION:
        return at + 2
    if kind == _IMAGE:
        *_, flags = read_fields(_PICTURE, data, at + 1)
        return at + 10 + _table(flags) + 1  # the byte is the LZW code size
    raise NotThePictureError(f"a damaged GIF file: no block at byte {at}")


def _sub_blocks(data: Data, at: int, left: int) -> tuple[int, int]:
    """Return the offset after a chain of sub-blocks, and how many more the file may have."""
    while length := _byte(data, at):
        at += 1 + length
        left -= 1
        if not left:
            raise NotThePictureError(f"a GIF file of more than {_MAX_SUB_BLOCKS} sub-blocks")
    return at + 1, left


def _has_all_pixels(data: Data, at: int, start: int) -> bool:
    """Return whether the sub-blocks from ``start`` on, which may be cut off, have all pixels.

    ``at`` is the offset of the picture's descriptor. The LZW codes are read for their lengths only.
    """
    width, height, _ = read_fields(_PICTURE, data, at + 1)
    alphabet = data[start - 1] if start <= len(data) else 0
    if not 1 <= alphabet <= _LARGEST_ALPHABET:
        return False
    parts, end = [], start + _MAX_COUNTED
    while start < len(data) and (length := data[start]):
        if start > end:
            return False
        parts.append(data[start + 1 : start + 1 + length])
        start += 1 + length
    return bool(_count_pixels(b"".join(parts), alphabet, width * height) >= width * height)


def _count_pixels(packed: bytes, alphabet: int, enough: int) -> int:
    """Return the pixels that LZW codes stand for, up to about ``enough``."""
    clear = 1 << alphabet
    pixels, lengths, size, before = 0, [1] * clear + [0, 0], alphabet + 1, 0
    bits = width = 0
    for byte in packed:
        bits |= byte << width
        width += 8
        while width >= size:
            code, bits, width = bits & (1 << size) - 1, bits >> size, width - size
            if code == clear:
                lengths, size, before = [1] * clear + [0, 0], alphabet + 1, 0
                continue
            if code == clear + 1 or code > len(lengths) or pixels >= enough:
                return pixels
            if before and len(lengths) < _MAX_CODE:
                lengths.append(before + 1)
            before = lengths[code] if code < len(lengths) else 0
            pixels += before
            if len(lengths) == 1 << size and size < _MAX_CODE_SIZE:
                size += 1
    return pixels


def _mark(data: Data, at: int, after: int, found: Findings) -> None:
    """Record what an extension says about the picture's origin."""
    kind = data[at + 1]
    if kind == _COMMENT:
        found.mark_text("text", "comment", data, at + 2, after)
    elif kind == _APPLICATION:
        name = data[at + 3 : at + 14]
        if mark := _APPLICATIONS.get(bytes(name)):
            found.mark_text(mark, name.rstrip(b"\0\1"), data, at + 14, after)


def _byte(data: Data, at: int) -> int:
    if at >= len(data):
        raise truncated("the GIF file", at + 1, len(data))
    return data[at]


def _table(flags: int) -> int:
    """Return the length of a colour table in bytes."""
    return 3 << (flags & 7) + 1 if flags & _HAS_TABLE else 0
