"""Hostile files: none can hang, crash or exhaust the inspection.

Work is counted in calls and bytes, never in seconds.
"""

import cProfile
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from made_pictures import IEND, SIZE, WHOLE, avif, box, chunk, long_box, png, track, video

from receiver.archive.inspect import Picture, gif, inspect, jpeg, jpeg_scans
from receiver.archive.inspect import png as png_walk
from receiver.archive.inspect import webp as webp_walk
from receiver.archive.inspect.reader import MAX_AREA, MAX_FRAMES, MAX_SIDE
from receiver.errors import NotThePictureError, TruncatedError

# Calls of Python and C functions that a byte may cost, and that any file may.
CALLS_A_BYTE, CALLS_AT_LEAST = 12, 2_000
MEMORY = 4 << 20  # bytes, whatever the size of the file


@contextmanager
def bounded(size: int) -> Iterator[None]:
    """See that the block's work is bounded by the size of the file."""
    profile = cProfile.Profile()
    profile.enable()
    try:
        yield
    finally:
        profile.disable()
    calls = sum(entry.callcount for entry in profile.getstats())
    assert calls <= CALLS_AT_LEAST + CALLS_A_BYTE * size, f"{calls} calls for {size} bytes"


@contextmanager
def in_little_memory() -> Iterator[None]:
    """See that the block's memory is bounded by a constant."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "picture"


def look(path: Path, content: bytes) -> Picture | None:
    """Inspect these bytes with limits on calls and memory; return None if they are refused.

    Any other error fails the test, and so does a picture of an absurd size.
    """
    path.write_bytes(content)
    with bounded(len(content)):
        try:
            picture = inspect(path)
        except NotThePictureError:
            return None
    assert picture.content_type in {
        "image/png",
        "image/jpeg",
        "image/webp",
        "image/gif",
        "image/avif",
        "video/mp4",
        "video/webm",
    }
    if picture.width is not None and picture.height is not None:
        assert 0 < picture.width <= MAX_SIDE
        assert 0 < picture.height <= MAX_SIDE
        assert picture.width * picture.height <= MAX_AREA
    return picture


# A corpus of broken pictures, made from whole ones.

KINDS = (
    "png with a palette",
    "animated png",
    "jpeg",
    "jpeg with restarts",
    "webp",
    "animated webp",
    "gif",
    "animated gif",
    "avif",
    "mp4",
    "webm",
)
NUMBERS = [b"\0\0\0\0", b"\0\0\0\1", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xff\xff\xff"]


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_in_a_file_may_lie(path: Path, kind: str, pytestconfig: pytest.Config) -> None:
    content, _ = WHOLE[kind]
    # By default each place has two of the numbers, by turns.
    each = len(NUMBERS) if pytestconfig.getoption("thorough") else 2
    for at in [
        *range(min(len(content) - 4, 48)),
        *range(48, len(content) - 4, max(7, len(content) // 30)),
    ]:
        for number in (NUMBERS * 2)[at % len(NUMBERS) :][:each]:
            look(path, content[:at] + number + content[at + 4 :])


@pytest.mark.parametrize("kind", KINDS)
def test_any_part_of_a_file_may_be_missing_or_come_twice(
    path: Path, kind: str, pytestconfig: pytest.Config
) -> None:
    content, _ = WHOLE[kind]
    step = max(1, len(content) // (40 if pytestconfig.getoption("thorough") else 15))
    for at in range(0, len(content), step):
        for length in (1, 8, step):
            look(path, content[:at] + content[at + length :])
            look(path, content[: at + length] + content[at:])


@examples(25)
@given(st.sampled_from(KINDS), st.sampled_from(KINDS), st.floats(0, 1), st.floats(0, 1))
def test_the_head_of_one_picture_and_the_tail_of_another(
    path: Path, one: str, other: str, here: float, there: float
) -> None:
    first, second = WHOLE[one][0], WHOLE[other][0]
    look(path, first[: int(here * len(first))] + second[int(there * len(second)) :])


@examples(25)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"moov", b"meta", b"trak", b"iprp", b"ipco", b"free"]),
            st.integers(0, 40),
        ),
        max_size=60,
    )
)
def test_boxes_within_boxes_with_lengths_that_lie(
    path: Path, boxes: list[tuple[bytes, int]]
) -> None:
    inside = b""
    for name, lie in boxes:
        inside = struct.pack(">I4s", 8 + len(inside) + (lie if lie > 30 else 0), name) + inside
    for brand in (b"avif", b"isom"):
        look(path, box(b"ftyp", brand, bytes(4)) + inside + box(b"mdat", bytes(9)))


def nested(name: bytes, depth: int) -> bytes:
    inside = b""
    for _ in range(depth):
        inside = box(name, inside)
    return inside


def moving(count: int, *, announced: int) -> bytes:
    """Make an animated AVIF that announces this many frames."""
    table = box(b"stbl", box(b"stsz", bytes(8), struct.pack(">I", announced), bytes(4 * count)))
    return avif(
        box(b"idat", b"x"), end=box(b"moov", box(b"trak", box(b"mdia", box(b"minf", table))))
    )


def described(items: int, parts: int, offset: bytes, method: int = 0) -> bytes:
    """Make an AVIF with an item of XMP in so many parts, all at ``offset``, described so often."""
    iloc = box(
        b"iloc",
        b"\1\0\0\0",
        bytes([len(offset) << 4 | 4, 0]),
        struct.pack(">HHHHH", 1, 1, method, 0, parts),
        (offset + struct.pack(">I", 9)) * parts,
    )
    entry = box(b"infe", b"\2\0\0\0", struct.pack(">HH", 1, 0), b"mime\0application/rdf+xml\0")
    iinf = box(b"iinf", bytes(4), struct.pack(">H", items), entry * items)
    ispe = box(b"ispe", bytes(4), struct.pack(">II", *SIZE))
    return box(b"ftyp", b"avif", bytes(4), b"mif1") + box(
        b"meta", bytes(4), iloc, iinf, box(b"iprp", box(b"ipco", ispe))
    )


def chunks_of_a_video(count: int) -> bytes:
    """Make a video whose table of chunks has this many entries."""
    tables = [
        box(b"stsz", bytes(8), struct.pack(">II", 9, 9)),
        box(b"stsc", bytes(4), struct.pack(">IIII", 1, 1, 1, 1)),
        box(b"stco", bytes(4), struct.pack(">I", count), bytes(4 * count)),
    ]
    return video(box(b"trak", box(b"mdia", box(b"minf", box(b"stbl", *tables)))))


FRAME = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x44\1\0"
GIF_HEAD = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0)
ANMF = b"ANMF" + struct.pack("<I", 16) + bytes(16)
VP8X = b"VP8X" + struct.pack("<I", 10) + bytes(10)


def webp(*chunks: bytes) -> bytes:
    body = b"".join((b"WEBP", *chunks))
    return b"RIFF" + struct.pack("<I", len(body)) + body


def ihdr(width: int, height: int) -> bytes:
    return struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


@cache
def bomb() -> bytes:
    """Compress 50 MB into 49 KB."""
    return zlib.compress(bytes(50_000_000), 9)


# Made in their tests only: every process of pytest-xdist imports this module.
REFUSED: dict[str, Callable[[], bytes]] = {
    "a gif of a million frames": lambda: GIF_HEAD + FRAME * 1_000_000 + b";",
    "a gif of one frame too many": lambda: GIF_HEAD + FRAME * (MAX_FRAMES + 1) + b";",
    "a gif of empty extensions": lambda: GIF_HEAD + b"!\xfe\0" * 6_000,
    "a webp of a million frames": lambda: webp(VP8X, ANMF * 1_000_000),
    "a png of a million frames": lambda: png(
        chunk(b"IDAT", b"x"), chunk(b"fcTL", bytes(26)) * (MAX_FRAMES + 1), IEND
    ),
    "an avif that announces 2^32 frames": lambda: moving(0, announced=0xFFFF_FFFF),
    "a png of 2^31 by 2^31 pixels": lambda: png(
        chunk(b"IDAT", bomb()), IEND, header=ihdr(0x7FFF_FFFF, 0x7FFF_FFFF)
    ),
    "a png of a line": lambda: png(chunk(b"IDAT", b"x"), IEND, header=ihdr(MAX_SIDE + 1, 1)),
    "a png of 60000 by 60000 pixels": lambda: png(
        chunk(b"IDAT", bomb()), IEND, header=ihdr(60_000, 60_000)
    ),
    "a webp of 2^24 by 2^24 pixels": lambda: webp(
        b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + b"\xff" * 6, ANMF
    ),
    "a gif without an end": lambda: GIF_HEAD + b"!\xfe" + b"\xff" + bytes(255) * 10_000,
    "a jpeg of markers": lambda: b"\xff\xd8\xff" + b"\xff" * 3_000_000,
    "a jpeg of empty segments": lambda: b"\xff\xd8\xff\xe0\0\2" + b"\xff\xe0\0\2" * 6_000,
    "a jpeg of scans": lambda: b"\xff\xd8" + b"\xff\xda\0\2" * 6_000,
    "a png of empty chunks": lambda: png(chunk(b"tEXt") * 6_000),
    "boxes nested ten thousand deep": lambda: (
        box(b"ftyp", b"isom", bytes(4)) + nested(b"moov", 10_000)
    ),
    "an mp4 of nested tracks": lambda: (
        box(b"ftyp", b"isom", bytes(4)) + nested(b"trak", 5_000) + box(b"moov") * 30_000
    ),
    "an mp4 of 2^63 bytes": lambda: (
        box(b"ftyp", b"isom", bytes(4)) + struct.pack(">I4sQ", 1, b"mdat", 1 << 63) + bytes(99)
    ),
    "an mp4 whose box has no length": lambda: (
        box(b"ftyp", b"isom", bytes(4)) + struct.pack(">I4sQ", 1, b"moov", 0) + bytes(99)
    ),
    "an avif of endless properties": lambda: avif(box(b"idat"), sizes=(SIZE,) * 30_000),
    "an avif whose item lies where no number reaches": lambda: described(1, 1, b"\xff" * 15),
    "an mp4 of too many chunks": lambda: chunks_of_a_video(600_000),
    "html": lambda: b"<!DOCTYPE html><script>alert(1)</script>",
    "html with a picture behind": lambda: b"<html><script>alert(1)</script>" + WHOLE["png"][0],
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
    "svg behind white space and comments": lambda: (
        b"\n\n <!-- " + b"x" * 300 + b" --> <svg onload='alert(1)'/>"
    ),
    "javascript": lambda: b"alert(1)//" + WHOLE["gif"][0],
    "a pdf with a picture in it": lambda: b"%PDF-1.7\n" + WHOLE["jpeg"][0],
    "a zip with a picture in it": lambda: b"PK\x03\x04" + WHOLE["jpeg"][0],
    "an executable": lambda: b"MZ" + WHOLE["png"][0],
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_made_to_hurt_is_refused_in_bounded_work_and_memory(
    path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (png_walk, jpeg, webp_walk, gif):
        monkeypatch.setattr(module, "MAX_PARTS", 5_000)  # less to count than the real one
    assert look(path, REFUSED[kind]()) is None
    with in_little_memory(), pytest.raises(NotThePictureError) as refused:
        inspect(path)
    assert len(str(refused.value)) < 500


TAKEN: dict[str, Callable[[], tuple[bytes, str]]] = {
    "a gif that is also javascript": lambda: (
        b"GIF89a"
        + struct.pack("<HHBBB", 0x2A2F, 1, 0, 0, 0)
        + b"!\xfe\x14*/=1;alert('here')//"
        + b"\0"
        + FRAME
        + b";",
        "image/gif",
    ),
    "a png with html in a comment": lambda: (
        png(chunk(b"tEXt", b"x\0<script>alert(1)</script>"), chunk(b"IDAT", b"x"), IEND),
        "image/png",
    ),
    "a png with html behind it": lambda: (
        WHOLE["png"][0] + b"<script>alert(1)</script>",
        "image/png",
    ),
    "a jpeg with php in its comment": lambda: (
        b"\xff\xd8\xff\xfe\0\x0e<?php 1; ?>1" + WHOLE["jpeg"][0][2:],
        "image/jpeg",
    ),
    "a png that unpacks to a thousand times its size": lambda: (
        png(chunk(b"IDAT", bomb()), IEND, header=ihdr(5_000, 3_333)),
        "image/png",
    ),
    "a gif of as many frames as may be": lambda: (
        GIF_HEAD + FRAME * MAX_FRAMES + b";",
        "image/gif",
    ),
    "an avif of as many frames as may be": lambda: (moving(10, announced=MAX_FRAMES), "image/avif"),
    "a video of many tracks": lambda: (video(*[track(0, 0)] * 900, track(*SIZE)), "video/mp4"),
    "an avif of one item that is described often": lambda: (
        described(2_000, 2_000, bytes(4)) + box(b"mdat", bytes(500_000)),
        "image/avif",
    ),
    "a video with long boxes": lambda: (
        video(track(*SIZE), end=long_box(b"mdat", bytes(9))),
        "video/mp4",
    ),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_a_picture_that_is_something_else_besides_is_called_a_picture_and_never_the_other_thing(
    path: Path, kind: str
) -> None:
    content, content_type = TAKEN[kind]()
    picture = look(path, content)
    assert picture is not None
    assert picture.content_type == content_type


@pytest.mark.parametrize("limit", ["_MAX_TABLES", "_MAX_BLOCKS", "_MAX_READ"])
def test_the_scans_of_a_jpeg_without_its_end_are_read_up_to_a_limit(
    path: Path, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(WHOLE["progressive jpeg"][0][:-2])
    assert inspect(path).unfinished
    monkeypatch.setattr(jpeg_scans, limit, 3)
    with pytest.raises(TruncatedError):
        inspect(path)


def test_the_bounds_themselves_can_be_broken(path: Path) -> None:
    with pytest.raises(AssertionError, match="calls for 10 bytes"), bounded(10):
        assert not any(path.name.startswith("x") for _ in range(10_000))
    with pytest.raises(AssertionError), in_little_memory():
        assert len(bytes(2 * MEMORY)) > MEMORY
