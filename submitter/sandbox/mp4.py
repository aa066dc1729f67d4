"""A small MP4 made without an encoder: one video track with one JPEG frame of two seconds.

Boxes by ISO/IEC 14496-12: a 32-bit length, a four-letter type, the content. Reference:
https://developer.apple.com/documentation/quicktime-file-format
"""

import struct

_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_TIMESCALE, _DURATION = 1000, 2000  # two seconds in milliseconds


def movie(frame: bytes, width: int, height: int) -> bytes:
    """Return a movie of one JPEG frame: ``ftyp``, ``moov``, then ``mdat`` with the frame."""
    ftyp = _box(b"ftyp", b"isom", struct.pack(">I", 512), b"isom", b"iso2", b"mp41", b"qt  ")
    # The frame's offset depends on the length of moov, not on its content: moov is made twice.
    offset = len(ftyp) + len(_moov(0, len(frame), width, height)) + 8
    return ftyp + _moov(offset, len(frame), width, height) + _box(b"mdat", frame)


def pad(drawing: bytes, padding: bytes) -> bytes:
    """Add the padding to ``mdat``, as media data that no sample uses."""
    start = 0
    while drawing[start + 4 : start + 8] != b"mdat":
        start += int.from_bytes(drawing[start : start + 4], "big")
    return drawing[:start] + _box(b"mdat", drawing[start + 8 :], padding)


def _box(name: bytes, *content: bytes) -> bytes:
    return b"".join([struct.pack(">I", 8 + sum(map(len, content))), name, *content])


def _full(name: bytes, *content: bytes, flags: int = 0) -> bytes:
    return _box(name, struct.pack(">I", flags), *content)


def _moov(offset: int, size: int, width: int, height: int) -> bytes:
    mvhd = _full(
        b"mvhd",
        struct.pack(">4IIH10x", 0, 0, _TIMESCALE, _DURATION, 0x10000, 0x100),
        _MATRIX,
        bytes(24),
        struct.pack(">I", 2),
    )
    tkhd = _full(
        b"tkhd",
        struct.pack(">5I8x4H", 0, 0, 1, 0, _DURATION, 0, 0, 0, 0),
        _MATRIX,
        struct.pack(">II", width << 16, height << 16),
        flags=3,
    )
    return _box(b"moov", mvhd, _box(b"trak", tkhd, _media(offset, size, width, height)))


def _media(offset: int, size: int, width: int, height: int) -> bytes:
    mdhd = _full(b"mdhd", struct.pack(">4IHH", 0, 0, _TIMESCALE, _DURATION, 0x55C4, 0))
    hdlr = _full(b"hdlr", bytes(4), b"vide", bytes(12), b"sandbox\0")
    vmhd = _full(b"vmhd", bytes(8), flags=1)
    dinf = _box(b"dinf", _full(b"dref", struct.pack(">I", 1), _full(b"url ", flags=1)))
    return _box(
        b"mdia", mdhd, hdlr, _box(b"minf", vmhd, dinf, _samples(offset, size, width, height))
    )


def _samples(offset: int, size: int, width: int, height: int) -> bytes:
    picture = struct.pack(">6xH16xHHIIIH", 1, width, height, 0x480000, 0x480000, 0, 1)
    codec = b"\x04jpeg".ljust(32, b"\0") + struct.pack(">Hh", 24, -1)
    return _box(
        b"stbl",
        _full(b"stsd", struct.pack(">I", 1), _box(b"jpeg", picture, codec)),
        _full(b"stts", struct.pack(">3I", 1, 1, _DURATION)),
        _full(b"stsc", struct.pack(">4I", 1, 1, 1, 1)),
        _full(b"stsz", struct.pack(">3I", 0, 1, size)),
        _full(b"stco", struct.pack(">II", 1, offset)),
    )
