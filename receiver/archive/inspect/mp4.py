"""Videos in ISO base media files (ISO/IEC 14496-12, 14496-14): size, and where the samples end.

Sample tables say where the data lies. A file in fragments has none; whether it is whole is seen in
its index (``sidx``) or its last box (``mfra``). Without these it is open-ended, because it may be
cut between two fragments.
"""

import struct
from itertools import chain, pairwise

from receiver.archive.inspect.boxes import Box, Top, Walk
from receiver.archive.inspect.reader import (
    Data,
    Findings,
    check_dimensions,
    quoted,
    read_fields,
    truncated,
)
from receiver.errors import NotThePictureError

_VERSION = struct.Struct(">B")
_TKHD_0 = struct.Struct(">76xH2xH2x")  # width, height: the whole part of 16.16 fixed-point numbers
_TKHD_1 = struct.Struct(">88xH2xH2x")  # the same, after times of 64 bits
_COUNT = struct.Struct(">4xI")
_STSZ = struct.Struct(">4xII")  # size of every sample, or 0; number of samples
_STSC = struct.Struct(">II4x")  # first chunk, samples in each chunk from there on
_SIDX_0, _SIDX_1 = struct.Struct(">12xII2xH"), struct.Struct(">12xQQ2xH")
_REFERENCE = struct.Struct(">I8x")  # one bit, then the size
# Entries of a table: more than two hours of 60 pictures a second.
_MAX_ENTRIES = 500_000
_STBL = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


def measure(
    walk: Walk, top: Top, found: Findings
) -> tuple[tuple[int | None, int | None], int | None]:
    """Return the size of the first track that has one, and the end of the last sample, if known."""
    if not top.has(b"moov", b"mdat"):
        raise NotThePictureError("an MP4 file without a video in it")
    if top.has(b"moof"):
        _check_fragments(walk, top, found)
        return _dimensions(walk, top), None
    return _dimensions(walk, top), end_of_samples(walk, top)


def _dimensions(walk: Walk, top: Top) -> tuple[int | None, int | None]:
    for box in walk.find(top.boxes, b"moov", b"trak", b"tkhd"):
        (version,) = read_fields(_VERSION, walk.data, box.start)
        width, height = read_fields(_TKHD_1 if version else _TKHD_0, walk.data, box.start)
        if width and height:
            return check_dimensions(width, height)
    return None, None


def end_of_samples(walk: Walk, top: Top) -> int | None:
    """Return the end of the last sample of all tracks, or None if no track has any."""
    ends = [
        end
        for table in walk.find(top.boxes, *_STBL)
        if (end := _end_of_track(walk.data, {box.name: box for box in walk.inside(table)}))
    ]
    return max(ends, default=None)


def _end_of_track(data: Data, tables: dict[bytes, Box]) -> int:
    """Return the end of the chunk that begins last, 0 if the track has no samples."""
    places = tables.get(b"stco") or tables.get(b"co64")
    sizes = tables.get(b"stsz") or tables.get(b"stz2")
    runs = tables.get(b"stsc")
    if places is None or sizes is None or runs is None:
        return 0
    offsets = _numbers(data, places, 8 if places.name == b"co64" else 4)
    if not offsets:
        return 0
    last = max(range(len(offsets)), key=offsets.__getitem__)
    first, count = _samples_of(data, runs, last + 1)
    return offsets[last] + _total(data, sizes, first, count)


def _numbers(data: Data, box: Box, size: int) -> tuple[int, ...]:
    """Return a table of numbers of 4 or 8 bytes each."""
    (count,) = read_fields(_COUNT, data, box.start)
    start = box.start + _COUNT.size
    _check_table(box, start, count, size)
    return struct.unpack_from(f">{count}{'Q' if size == 8 else 'I'}", data, start)  # noqa: PLR2004


def _samples_of(data: Data, runs: Box, chunk: int) -> tuple[int, int]:
    """Return how many samples stand before a chunk (counted from 1), and how many are in it."""
    (count,) = read_fields(_COUNT, data, runs.start)
    start = runs.start + _COUNT.size
    _check_table(runs, start, count, _STSC.size)
    entries = _STSC.iter_unpack(data[start : start + count * _STSC.size])
    before = 0
    for (first, each), (following, _) in pairwise(chain(entries, [(chunk + 1, 0)])):
        if following > chunk:
            return before + (chunk - first) * each, each
        before += (following - first) * each
    return before, 0


def _total(data: Data, box: Box, first: int, count: int) -> int:
    """Return how many bytes these samples have."""
    if box.name == b"stz2":
        return 0  # rare, and its last chunk is short
    each, there = read_fields(_STSZ, data, box.start)
    if each:
        return int(each * count)
    start = box.start + _STSZ.size
    stop = min(first + count, there)
    _check_table(box, start, stop, 4)
    return sum(struct.unpack_from(f">{max(0, stop - first)}I", data, start + 4 * first))


def _check_table(box: Box, start: int, count: int, size: int) -> None:
    """Raise NotThePictureError if a table has too many entries, or goes on after its box."""
    if count > _MAX_ENTRIES:
        raise NotThePictureError(f"a video with a table of more than {_MAX_ENTRIES} entries")
    if start + count * size > box.end:
        raise truncated(f"box {quoted(box.name)}", start + count * size, box.end)


def _check_fragments(walk: Walk, top: Top, found: Findings) -> None:
    """Check that no fragment is missing, or record that the file does not show it."""
    names = [box.name for box in top.boxes if box.name in {b"moof", b"mdat"}]
    if names[-1] == b"moof":
        raise truncated("the last fragment", len(walk.data) + 1, len(walk.data))
    indexes = [_index(walk.data, box) for box in walk.find(top.boxes, b"sidx")]
    for _, end in indexes:
        if end > len(walk.data):
            raise truncated("the index", end, len(walk.data))
    # An index of several fragments is that of the whole file; others stand before each fragment.
    is_indexed = len(indexes) == 1 and indexes[0][0] > 1
    found.open_ended = not is_indexed and not top.has(b"mfra")


def _index(data: Data, box: Box) -> tuple[int, int]:
    """Return the number of parts that a segment index lists, and where the last one ends."""
    (version,) = read_fields(_VERSION, data, box.start)
    layout = _SIDX_1 if version else _SIDX_0
    _, offset, count = read_fields(layout, data, box.start)
    start = box.start + layout.size
    sizes = (
        read_fields(_REFERENCE, data, start + _REFERENCE.size * at)[0] & 0x7FFFFFFF
        for at in range(count)
    )
    return count, box.end + offset + sum(sizes)
