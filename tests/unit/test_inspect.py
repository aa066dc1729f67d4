"""Inspection: real files of every format pass; cut, damaged, hostile and other files do not."""

import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from made_pictures import IEND, SIZE, UNKNOWN, WHOLE, avif, box, chunk, png, track, video, webm

from receiver.archive.inspect import Picture, gif, inspect, jpeg
from receiver.archive.inspect import png as png_walk
from receiver.archive.inspect import webp as webp_walk
from receiver.archive.inspect.reader import MAX_PARTS
from receiver.errors import NotThePictureError, StoreError


@pytest.fixture
def look(tmp_path: Path) -> Callable[[bytes], Picture]:
    """Inspect these bytes as a file."""

    def call(content: bytes) -> Picture:
        path = tmp_path / "picture"
        path.write_bytes(content)
        return inspect(path)

    return call


@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_file_is_recognised_and_measured(
    kind: str, look: Callable[[bytes], Picture]
) -> None:
    content, (content_type, extension) = WHOLE[kind]
    picture = look(content)
    assert replace(picture, marks=()) == Picture(content_type, extension, *SIZE)


def test_a_live_webm_file_of_unknown_sizes_is_cut_short_inside_an_element(
    look: Callable[[bytes], Picture],
) -> None:
    content = webm(UNKNOWN)
    assert look(content) == Picture("video/webm", "webm", *SIZE, open_ended=True)
    for length in (*range(1, 40), *range(len(content) - 310, len(content) - 5, 7)):
        with pytest.raises(NotThePictureError):
            look(content[:length])


def test_another_ebml_file_is_no_video(look: Callable[[bytes], Picture]) -> None:
    with pytest.raises(NotThePictureError, match="not a WebM video"):
        look(webm(kind=b"audiobook"))


def test_a_video_without_a_size_is_a_video(look: Callable[[bytes], Picture]) -> None:
    assert look(video(track(0, 0))) == Picture("video/mp4", "mp4", None, None)
    assert look(video()) == Picture("video/mp4", "mp4", None, None)


def test_a_last_box_may_say_to_the_end(look: Callable[[bytes], Picture]) -> None:
    assert (
        look(video(track(*SIZE), end=struct.pack(">I4s", 0, b"mdat") + bytes(500))).width == SIZE[0]
    )


@given(
    st.sampled_from(sorted(WHOLE)),
    st.lists(
        st.tuples(st.floats(0, 1), st.binary(max_size=9), st.integers(0, 9)), min_size=1, max_size=6
    ),
)
def test_a_damaged_file_never_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, kind: str, damages: list[tuple[float, bytes, int]]
) -> None:
    content, _ = WHOLE[kind]
    for where, new, cut in damages:
        at = int(where * where * len(content))  # more at the beginning, where the structure is
        content = content[:at] + new + content[at + cut :]
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    try:
        picture = inspect(path)
    except NotThePictureError:
        return
    assert (picture.width or 1) > 0


@given(
    st.sampled_from([content[:length] for content, _ in WHOLE.values() for length in (8, 12, 30)]),
    st.binary(max_size=200),
)
@example(b"\xff\xd8\xff", b"")
def test_noise_after_a_good_beginning_never_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, head: bytes, noise: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "noise"
    path.write_bytes(head + noise)
    with pytest.raises(NotThePictureError):
        inspect(path)


@pytest.mark.parametrize(
    ("content", "looks"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"\xef\xbb\xbf\r\n <html lang=zh>", "an HTML page"),
        (b"<!-- x --><HEAD>", "an HTML page"),
        (b'<svg xmlns="http://www.w3.org/2000/svg">', "an SVG drawing"),
        (b'<?xml version="1.0"?>\n<!-- x -->\n<svg>', "an SVG drawing"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML document"),
        (b'{"code":-1,"msg":"expired"}', "a JSON document"),
        (b" [1]", "a JSON document"),
        (b"404 page not found\n", "plain text"),
        (b"%PDF-1.7", "a PDF document"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"\x1f\x8b\x08", "gzip data"),
        (b"BM\0\0", "an unusual BMP picture"),
        (b"II*\0", "a TIFF picture"),
        (b"\x7fELF\0", "an unknown kind of file"),
        (bytes(1000), "an unknown kind of file"),
    ],
)
def test_what_is_no_picture_is_called_by_its_name(
    content: bytes, looks: str, look: Callable[[bytes], Picture]
) -> None:
    with pytest.raises(NotThePictureError, match=f"^{looks}, not a picture") as refused:
        look(content)
    assert not refused.value.permanent


def test_a_relative_of_avif_is_called_by_its_brand(look: Callable[[bytes], Picture]) -> None:
    with pytest.raises(NotThePictureError, match="brand 'heic'"):
        look(box(b"ftyp", b"heic", bytes(4), b"mif1heic") + box(b"mdat", bytes(9)))


JPEG_START = b"\xff\xd8\xff\xc0\0\x0b\x08" + struct.pack(">HH", *SIZE) + b"\1\1\x11\0"
WEBP_START = b"RIFF" + struct.pack("<I", 30) + b"WEBP"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (png(IEND), "without a picture"),
        (
            png(chunk(b"IDAT", b"x"), header=struct.pack(">IIBBBBB", 0, 5, 8, 2, 0, 0, 0)),
            "0 x 5 pixels",
        ),
        (png(header=struct.pack(">IIBBBBB", 65_536, 5, 8, 2, 0, 0, 0)), "65536 x 5 pixels"),
        (
            png(header=struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)),
            "40000 x 40000 pixels",
        ),
        (png(header=struct.pack(">IIBBBBB", 5, 5, 3, 2, 0, 0, 0)), "broken header"),
        (png(header=struct.pack(">IIBBBBB", 5, 5, 8, 2, 0, 0, 2)), "broken header"),
        (png(header=b"\0"), "cut short|broken header"),
        (png(chunk(b"IDAT", b"x")[:-1] + b"!", IEND), "checksum of chunk 'IDAT' is wrong"),
        (png(struct.pack(">I4s", 0xFFFF_FFFF, b"IDAT"), bytes(99)), "cut short: PNG chunk 'IDAT'"),
        (JPEG_START + b"\xff\xd9", "without a picture"),
        (b"\xff\xd8\xff\xda\0\2\xff\xd9", "without a picture"),
        (b"\xff\xd8\xff\xc0\0\x0b\x08" + struct.pack(">HH", 0, 5) + bytes(4), "5 x 0 pixels"),
        (JPEG_START + b"\xff\xdb\0\1", "a segment of 1 bytes"),
        (JPEG_START + b"\xff\xe0\0\2oops\xff\xd9", "without a picture"),
        (JPEG_START + b"\xff\xd8\xff", "another JPEG file begins"),
        (JPEG_START + b"\xff\xda\0\2" + b"\xff\0" * 50, "within a scan"),
        (JPEG_START + b"\xff" * 1_000_000, "cut short"),
        (WEBP_START + b"VP8 " + struct.pack("<I", 18) + bytes(30), "broken header"),
        (WEBP_START + b"VP8L" + struct.pack("<I", 18) + bytes(30), "broken header"),
        (WEBP_START + b"ICCP" + struct.pack("<I", 18) + bytes(30), "broken header"),
        (WEBP_START + b"VP8X" + struct.pack("<I", 18) + bytes(30), "without a picture"),
        (WEBP_START + b"VP8X" + struct.pack("<I", 19) + bytes(30), "cut short: WebP chunk"),
        (b"GIF89a\5\0\5\0\0\0\0;", "without a picture"),
        (b"GIF89a\0\0\5\0\0\0\0;", "without a picture"),
        (b"GIF89a\5\0\5\0\0\0\0oops", "no block at byte 13"),
        (box(b"ftyp", b"avif") + box(b"mdat", b"x"), "without a picture"),
        (avif(), "cut short: an item"),
        (avif(box(b"idat", b"x"), sizes=((70_000, 5),)), "70000 x 5 pixels"),
        (avif(box(b"idat")), "cut short: an item"),
        (box(b"ftyp", b"isom") + box(b"mdat", b"x"), "without a video"),
        (video(end=b""), "without a video"),
        (video(end=struct.pack(">I4s", 7, b"mdat")), "without a video"),
        (video(end=struct.pack(">I4sQ", 1, b"mdat", 15)), "without a video"),
        (video(struct.pack(">I4s", 7, b"trak")), "a box of 7 bytes"),
        (video(end=struct.pack(">I4sQ", 1, b"mdat", (1 << 64) - 1)), "cut short: box 'mdat'"),
        (video(box(b"trak", box(b"tkhd", bytes(9)))[:-9]), "cut short"),
        (box(b"ftyp", b"isom") + box(b"free") * 100_000, "more than .* boxes"),
        (video(*[track(0, 0)] * 50_000), "more than .* boxes"),
    ],
)
def test_a_broken_or_hostile_file_is_refused(
    content: bytes, said: str, look: Callable[[bytes], Picture]
) -> None:
    with pytest.raises(NotThePictureError, match=said):
        look(content)


# Files of many parts, and what the parts are called.
MANY: dict[str, tuple[Callable[[int], bytes], str]] = {
    "png": (lambda parts: png(chunk(b"tEXt") * parts), "chunks"),
    "jpeg": (lambda parts: JPEG_START + b"\xff\xe0\0\2" * parts, "segments"),
    "webp": (
        lambda parts: b"".join(
            [
                b"RIFF" + struct.pack("<I", 22 + 8 * parts),
                b"WEBPVP8X" + struct.pack("<I", 10) + bytes(10 + 8 * parts),
            ]
        ),
        "chunks",
    ),
    "gif": (lambda parts: b"GIF89a\5\0\5\0\0\0\0" + b"!\xfe\0" * parts, "blocks"),
    "gif of one comment": (
        lambda parts: b"GIF89a\5\0\5\0\0\0\0!\xfe" + b"\1x" * parts,
        "sub-blocks",
    ),
}


@pytest.mark.parametrize("kind", MANY)
@pytest.mark.parametrize("limit", [1000, pytest.param(None, marks=pytest.mark.thorough)])
def test_a_file_of_too_many_parts_is_refused(
    kind: str,
    limit: int | None,  # instead of the real one
    look: Callable[[bytes], Picture],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if limit:
        for module in (png_walk, jpeg, webp_walk, gif):
            monkeypatch.setattr(module, "MAX_PARTS", limit)
        monkeypatch.setattr(gif, "_MAX_SUB_BLOCKS", limit)
    make, called = MANY[kind]
    most = limit or (gif._MAX_SUB_BLOCKS if called == "sub-blocks" else MAX_PARTS)
    with pytest.raises(NotThePictureError, match=f"more than {most} {called}"):
        look(make(most))


def test_a_large_file_is_never_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.write(png(chunk(b"IDAT", bytes(32 << 20)), IEND))
    tracemalloc.start()
    try:
        assert inspect(path).content_type == "image/png"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_file_that_cannot_be_read_is_our_own_fault(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        inspect(tmp_path / "missing")
