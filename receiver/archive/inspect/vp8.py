"""A VP8 key frame (RFC 6386) within a WebP file: whether its partitions fit into its chunk.

The first partition begins with the frame's header, of which the bits are arithmetically coded, all
with the probability of one half. The header says how many partitions follow.
"""

import struct

from receiver.archive.inspect.reader import Data, read_fields, truncated

_HEAD = 10  # bytes before the first partition: tag, start code, dimensions
_TAG = struct.Struct("<HB")
_SEGMENTS, _FILTER_DELTAS = 4, 8
_MAX_READ = 64  # bytes: the header's bits up to the number of partitions


def check_partitions(data: Data, start: int, end: int) -> None:
    """Raise TruncatedError if a partition would end after the chunk from ``start`` to ``end``."""
    low, high = read_fields(_TAG, data, start)
    first = start + _HEAD + ((high << 16 | low) >> 5)
    if first > end:
        raise truncated("the VP8 picture", first, end)
    bits = _Bits(bytes(data[start + _HEAD : min(first, start + _HEAD + _MAX_READ)]))
    count = _count_partitions(bits)
    at = first + 3 * (count - 1)  # the last partition has no length: it ends with the chunk
    for entry in range(first, at, 3):
        at += int.from_bytes(data[entry : entry + 3], "little")
    if at >= end:
        raise truncated("the VP8 picture", at + 1, end)


def _count_partitions(bits: "_Bits") -> int:
    """Read the frame's header up to the number of partitions (section 9.2 to 9.5)."""
    bits.number(2)  # colour space, clamping
    if bits.number(1):
        has_map, has_values = bits.number(1), bits.number(1)
        if has_values:
            bits.number(1)
            bits.optional([8] * _SEGMENTS + [7] * _SEGMENTS)  # with signs
        if has_map:
            bits.optional([8] * (_SEGMENTS - 1))
    bits.number(1 + 6 + 3)  # loop filter: type, level, sharpness
    if bits.number(1) and bits.number(1):
        bits.optional([7] * _FILTER_DELTAS)
    return 1 << bits.number(2)


class _Bits:
    """Reads bits of probability one half (section 7.3)."""

    def __init__(self, data: bytes) -> None:
        self._data = data.ljust(_MAX_READ, b"\0")
        self._value = int.from_bytes(self._data[:2], "big")
        self._at, self._range, self._shifted = 2, 255, 0

    def number(self, length: int) -> int:
        """Return a number of this many bits."""
        value = 0
        for _ in range(length):
            value = value << 1 | self._bit()
        return value

    def optional(self, lengths: list[int]) -> None:
        """Pass numbers that each follow a bit, if it is set."""
        for length in lengths:
            if self._bit():
                self.number(length)

    def _bit(self) -> int:
        split = 1 + (self._range - 1 >> 1)
        bit = self._value >= split << 8
        self._value -= split << 8 if bit else 0
        self._range = self._range - split if bit else split
        while self._range < 1 << 7:
            self._value <<= 1
            self._range <<= 1
            self._shifted += 1
            if self._shifted == 8:  # noqa: PLR2004 - bits of a byte
                self._shifted = 0
                self._value |= self._data[self._at] if self._at < len(self._data) else 0
                self._at += 1
        return int(bit)
