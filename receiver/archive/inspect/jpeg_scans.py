"""Whether the scans of a JPEG file without an end marker have all blocks (T.81, annexes F and G).

Only this shows whether a file lacks two bytes or half of its picture. The codes are read for their
lengths; no sample is computed. Only Huffman coding is read, because arithmetic coding is not in
use. It takes about a second for a megabyte, so it is done for such files only.
"""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from receiver.archive.inspect.reader import Data

_MAX_BYTES = 8 << 20
# Memory and time depend on these: blocks for each byte, blocks of a picture (40 million pixels),
# blocks that are read in all scans (about a minute), and Huffman tables.
_BLOCKS_A_BYTE, _MAX_BLOCKS, _MAX_READ, _MAX_TABLES = 8, 2_000_000, 20_000_000, 1_000
# Zeros that are read at the end of a file. Many zeros mean that the file was allocated in advance;
# they may decode as picture data.
_ZEROS = 16
_MARKER = re.compile(rb"\xff([^\x00\xff])")
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_TABLES, _SCAN, _INTERVAL = 0xC4, 0xDA, 0xDD
_TABLE_NUMBERS = 0x13  # bits: DC or AC, and one of four
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})
_ENDS = frozenset({0xD8, 0xD9})  # another file, or the end marker
_COEFFICIENTS, _MAX_CODE, _LONG_RUN = 64, 16, 15


_Table = list[tuple[int, int]]  # length and symbol of the code that each 16 bits begin with


class _CutShortError(Exception):
    """The data ends before the scan does, or cannot be read."""


@dataclass(slots=True)
class _Component:
    across: int  # blocks of it in an MCU
    down: int
    width: int = 0  # blocks in a row and rows of blocks, without padding
    height: int = 0
    stride: int = 0  # blocks in a row, with padding
    known: bytearray = field(default_factory=bytearray)  # coefficients that are not 0
    precision: list[int] = field(default_factory=lambda: [255] * _COEFFICIENTS)


class _Part(NamedTuple):
    """A component in a scan, with its tables."""

    component: _Component
    dc: _Table
    ac: _Table


@dataclass(slots=True)
class _Frame:
    width: int
    height: int
    is_progressive: bool
    components: dict[int, _Component]
    columns: int = 0  # MCUs
    rows: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether every coefficient of every component came in full precision."""
        return all(not any(one.precision) for one in self.components.values())


def size_if_whole(data: Data) -> tuple[int, int] | None:
    """Return width and height if all blocks of the picture are there, else None."""
    if len(data) > _MAX_BYTES:
        return None
    try:
        frame = _Reader(data).read()
    except (
        _CutShortError,
        IndexError,
        KeyError,
        TypeError,
        ValueError,
        ZeroDivisionError,
        struct.error,
    ):
        return None  # whatever is broken in it: it is not the whole picture
    return (frame.width, frame.height) if frame and frame.is_whole else None


class _Reader:
    """Reads the segments and scans of one file."""

    def __init__(self, data: Data) -> None:
        end = len(data[:].rstrip(b"\0")) + _ZEROS
        self.data = data[:end]
        self.frame: _Frame | None = None
        self.tables: dict[int, _Table] = {}
        self.interval = 0
        self.tables_left, self.blocks_left = _MAX_TABLES, _MAX_READ

    def read(self) -> _Frame | None:
        """Read until the end of the file, or until another begins; return the frame."""
        at = 2
        while found := _MARKER.search(self.data, at):
            marker, at = found[1][0], found.end()
            if marker in _BARE:
                continue
            if marker in _ENDS:
                break
            if at + 2 > len(self.data):
                break
            (length,) = struct.unpack_from(">H", self.data, at)
            if at + length > len(self.data):
                break  # the rest is missing; ``is_whole`` decides whether it was needed
            body, at = self.data[at + 2 : at + length], at + max(2, length)
            if marker in (*_SEQUENTIAL, _PROGRESSIVE):
                self.frame = _frame(body, len(self.data), is_progressive=marker == _PROGRESSIVE)
            elif marker == _TABLES:
                self._define_tables(body)
            elif marker == _INTERVAL:
                (self.interval,) = struct.unpack_from(">H", body)
            elif marker == _SCAN:
                at = self._scan(body, at)
        return self.frame

    def _define_tables(self, body: bytes) -> None:
        at = 0
        while at < len(body):
            counts = body[at + 1 : at + 17]
            symbols = body[at + 17 : at + 17 + sum(counts)]
            self.tables_left -= 1
            if not self.tables_left or body[at] & ~_TABLE_NUMBERS:
                raise _CutShortError
            self.tables[body[at]] = _lookup(counts, symbols)
            at += 17 + sum(counts)

    def _scan(self, head: bytes, at: int) -> int:
        """Read a scan; return the offset after it."""
        following = _NEXT_MARKER.search(self.data, at)
        end = following.start() if following else len(self.data)
        parts = [
            part.rstrip(b"\xff").replace(b"\xff\0", b"\xff")
            for part in _RESTART.split(self.data[at:end])
        ]
        if self.frame is None:
            raise _CutShortError
        scan = _Scan(self.frame, head, self.tables)
        self.blocks_left -= scan.count()
        if self.blocks_left < 0:
            raise _CutShortError
        scan.read(parts, self.interval)
        return end


def _frame(body: bytes, size: int, *, is_progressive: bool) -> _Frame:
    _, height, width, count = struct.unpack_from(">BHHB", body)
    found = {
        body[at]: _Component(body[at + 1] >> 4, body[at + 1] & 15)
        for at in range(6, 6 + 3 * count, 3)
    }
    most_across = max(one.across for one in found.values())
    most_down = max(one.down for one in found.values())
    columns, rows = _up(width, 8 * most_across), _up(height, 8 * most_down)
    blocks = sum(columns * rows * one.across * one.down for one in found.values())
    if blocks > min(_BLOCKS_A_BYTE * size, _MAX_BLOCKS):
        raise _CutShortError
    for one in found.values():
        one.width = _up(_up(width * one.across, most_across), 8)
        one.height = _up(_up(height * one.down, most_down), 8)
        one.stride = columns * one.across
        if is_progressive:
            one.known = bytearray(_COEFFICIENTS * one.stride * rows * one.down)
    return _Frame(width, height, is_progressive, found, columns, rows)


def _up(number: int, step: int) -> int:
    """Return the quotient, rounded up."""
    return -(-number // step)


def _lookup(counts: bytes, symbols: bytes) -> _Table:
    """Return the table of the codes with these lengths and symbols."""
    table: _Table = []
    at = 0
    for length, count in enumerate(counts, 1):
        for symbol in symbols[at : at + count]:
            table.extend([(length, symbol)] * (1 << _MAX_CODE - length))
            if len(table) > 1 << _MAX_CODE:
                raise _CutShortError
        at += count
    # No code begins with these bits; the long code ends the reading.
    return table + [(1 << 40, 0)] * ((1 << _MAX_CODE) - len(table))


class _Scan:
    """One scan: which coefficients of which components, and the position in its bits."""

    def __init__(self, frame: _Frame, head: bytes, tables: dict[int, _Table]) -> None:
        self.frame = frame
        chosen = [(head[at], head[at + 1]) for at in range(1, 1 + 2 * head[0], 2)]
        self.first, self.last, steps = head[1 + 2 * head[0] : 4 + 2 * head[0]]
        if not frame.is_progressive:
            self.first, self.last, steps = 0, _COEFFICIENTS - 1, 0
        self.high = steps >> 4
        self.parts = [
            _Part(
                frame.components[which], tables.get(used >> 4, []), tables.get(0x10 | used & 15, [])
            )
            for which, used in chosen
        ]
        for part in self.parts:
            for k in range(self.first, self.last + 1):
                part.component.precision[k] = steps & 15
        self.bits, self.at, self.run = b"", 0, 0  # run: blocks that follow and are empty

    def count(self) -> int:
        """Return the number of blocks."""
        each = [part.component.across * part.component.down for part in self.parts]
        return len(self._units()) * (sum(each) if len(each) > 1 else 1)

    def read(self, parts: list[bytes], interval: int) -> None:
        """Read all blocks from the parts between restart markers.

        Raise _CutShortError if they are not there.
        """
        units = self._units()
        interval = interval or len(units)
        needed = _up(len(units), interval)
        if len(parts) < needed:
            raise _CutShortError
        for number, part in enumerate(parts[:needed]):
            self.bits, self.at, self.run = part + b"\xff\xff\xff\xff", 0, 0
            self._read_part(units[number * interval : (number + 1) * interval], 8 * len(part))

    def _units(self) -> range:
        """Return the numbers of the scan's MCUs; alone, a component has a block in each."""
        if len(self.parts) > 1:
            return range(self.frame.columns * self.frame.rows)
        component = self.parts[0].component
        return range(component.width * component.height)

    def _read_part(self, units: range, size: int) -> None:
        read = self._reader()
        for unit in units:
            for part, block in self._blocks(unit):
                read(part, block * _COEFFICIENTS)
            if self.at > size:
                raise _CutShortError

    def _blocks(self, unit: int) -> Iterator[tuple[_Part, int]]:
        """Yield the blocks of an MCU: the component and the block's number in it."""
        if len(self.parts) == 1:
            part = self.parts[0]
            row, column = divmod(unit, part.component.width)
            yield part, row * part.component.stride + column
            return
        row, column = divmod(unit, self.frame.columns)
        for part in self.parts:
            component = part.component
            for down in range(component.down):
                start = (row * component.down + down) * component.stride
                for across in range(component.across):
                    yield part, start + column * component.across + across

    def _reader(self) -> Callable[[_Part, int], None]:
        """Return the method that reads a block of this scan."""
        if not self.frame.is_progressive:
            return self._sequential
        if self.first == 0:
            return self._dc_refined if self.high else self._dc
        return self._ac_refined if self.high else self._ac

    def _symbol(self, table: _Table) -> int:
        at = self.at
        word = int.from_bytes(self.bits[at >> 3 : (at >> 3) + 3], "big")
        length, symbol = table[word >> 8 - (at & 7) & 0xFFFF]
        self.at = at + length
        return symbol

    def _number(self, length: int) -> int:
        at = self.at
        word = int.from_bytes(self.bits[at >> 3 : (at >> 3) + 4], "big")
        self.at = at + length
        return word >> 32 - length - (at & 7) & (1 << length) - 1

    def _sequential(self, part: _Part, _start: int) -> None:
        size = self._symbol(part.dc) & 15
        self.at += size
        k = 1
        while k < _COEFFICIENTS:
            symbol = self._symbol(part.ac)
            size = symbol & 15
            if not size and symbol >> 4 < _LONG_RUN:
                return
            self.at += size
            k += (symbol >> 4) + 1

    def _dc(self, part: _Part, _start: int) -> None:
        size = self._symbol(part.dc) & 15
        self.at += size

    def _dc_refined(self, _part: _Part, _start: int) -> None:
        self.at += 1

    def _ac(self, part: _Part, start: int) -> None:
        if self.run:
            self.run -= 1
            return
        k = self.first
        while k <= self.last:
            symbol = self._symbol(part.ac)
            zeros, size = symbol >> 4, symbol & 15
            if not size and zeros < _LONG_RUN:
                self.run = (1 << zeros) - 1 + self._number(zeros)
                return
            k += zeros
            if size and k < _COEFFICIENTS:
                part.component.known[start + k] = 1
                self.at += size
            k += 1

    def _ac_refined(self, part: _Part, start: int) -> None:
        k = self.first
        while k <= self.last and not self.run:
            symbol = self._symbol(part.ac)
            zeros, size = symbol >> 4, symbol & 15
            if not size and zeros < _LONG_RUN:
                self.run = (1 << zeros) + self._number(zeros)
                break
            self.at += bool(size)  # the sign
            k = self._refine(part.component.known, start, k, zeros)
            if size and k <= self.last:
                part.component.known[start + k] = 1
            k += 1
        if self.run:
            self.at += sum(part.component.known[start + k : start + self.last + 1])
            self.run -= 1

    def _refine(self, known: bytearray, start: int, k: int, zeros: int) -> int:
        """Pass known coefficients, each with a bit, and ``zeros`` others; return the position."""
        while k <= self.last:
            if known[start + k]:
                self.at += 1
            elif not zeros:
                break
            else:
                zeros -= 1
            k += 1
        return k
