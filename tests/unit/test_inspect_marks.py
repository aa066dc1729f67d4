"""Marks of origin: which data a file has that says where it comes from, and how large they are."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from damaged_pictures import after_first, after_header
from made_pictures import SIZE, WHOLE, box, chunk, drawn, element, track, video

from receiver.archive.inspect import inspect
from receiver.model import MARK_KINDS

C2PA = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
LABEL = b'<x:xmpmeta Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/trainedAlgorithmicMedia"/>'
PNG, WEBP, GIF = WHOLE["png"][0], WHOLE["webp with metadata"][0], WHOLE["gif"][0]


def segment(number: int, body: bytes) -> bytes:
    """Make an application segment of a JPEG."""
    return b"\xff" + bytes([0xE0 + number]) + struct.pack(">H", 2 + len(body)) + body


def jumbf(packet: int, body: bytes) -> bytes:
    """Make a segment with a packet of a JUMBF box."""
    return segment(
        11, b"JP" + struct.pack(">HI", 1, packet) + struct.pack(">I", 99) + b"jumb" + body
    )


def in_riff(content: bytes, name: bytes, body: bytes) -> bytes:
    """Append a chunk to a WebP."""
    content += name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
    return content[:4] + struct.pack("<I", len(content) - 8) + content[8:]


# An empty directory: Pillow reads what it writes.
EXIF = b"Exif\0\0II*\0\x08\0\0\0" + bytes(6)
XMP = b"http://ns.adobe.com/xap/1.0/\0"
MARKED = {
    "c2pa in a png": (after_header(PNG, chunk(b"caBX", b"x" * 9)), [("c2pa", "caBX", 9)]),
    "a label in a png": (
        after_header(PNG, chunk(b"iTXt", b'AIGC\0\0\0\0\0{"Label":"1"}')),
        [("text", "AIGC", 22), ("aigc", "AIGC", 22)],
    ),
    "parameters in a png": (
        after_header(PNG, chunk(b"tEXt", b"parameters\0a fox")),
        [("text", "parameters", 16)],
    ),
    "xmp in a png": (
        after_header(PNG, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + LABEL)),
        [("xmp", "iTXt", len(LABEL) + 5), ("ai", "iTXt", len(LABEL) + 5)],
    ),
    "exif in a png": (after_header(PNG, chunk(b"eXIf", b"II*\0")), [("exif", "eXIf", 4)]),
    "c2pa in two segments of a jpeg": (
        after_first(jumbf(1, b"\0\0\0\x11jumdc2pa") + jumbf(2, b"more")),
        [("c2pa", "APP11", 16 + 12 + 16 + 4)],
    ),
    "another box in a jpeg": (after_first(jumbf(1, b"json")), [("jumbf", "APP11", 20)]),
    "xmp in a jpeg": (after_first(segment(1, XMP + b"<x/>")), [("xmp", "APP1", 4)]),
    "exif in a jpeg": (after_first(segment(1, b"Exif\0\0II*\0")), [("exif", "APP1", 5)]),
    "iptc in a jpeg": (after_first(segment(13, b"Photoshop 3.0\0abc")), [("iptc", "APP13", 3)]),
    "a comment in a jpeg": (after_first(b"\xff\xfe\0\5abc"), [("text", "COM", 3)]),
    "exif in a webp": (WEBP, [("exif", "EXIF", 1)]),
    "c2pa in a webp": (in_riff(WEBP, b"C2PA", b"abc"), [("exif", "EXIF", 1), ("c2pa", "C2PA", 3)]),
    "xmp in a webp": (in_riff(WEBP, b"XMP ", b"ab"), [("exif", "EXIF", 1), ("xmp", "XMP", 2)]),
    "xmp in a gif": (
        GIF[:-1] + b"!\xff\x0bXMP DataXMP\4<x/>\0;",
        [("xmp", "XMP DataXMP", 6)],
    ),
    "exif in an avif": (drawn("AVIF", exif=EXIF), [("exif", "item", 4 + len(EXIF))]),
    "xmp in an avif": (
        drawn("AVIF", xmp=LABEL),
        [("xmp", "item", len(LABEL)), ("ai", "item", len(LABEL))],
    ),
    "the last label of a long text in a png": (  # only its first megabyte is searched
        after_header(PNG, chunk(b"tEXt", b"x\0" + bytes(1 << 20) + b"AIGC")),
        [("text", "x", (1 << 20) + 6)],
    ),
    "c2pa in a video": (video(track(*SIZE)) + box(b"uuid", C2PA, b"abcde"), [("c2pa", "uuid", 5)]),
    "a label in a video": (
        box(b"ftyp", b"isom", bytes(4))
        + box(b"moov", track(*SIZE), box(b"udta", b'AIGC{"Label":"1"}'))
        + box(b"mdat", bytes(9)),
        [("text", "udta", 17), ("aigc", "udta", 17)],
    ),
    "tags in a webm": (
        WHOLE["webm"][0][: WHOLE["webm"][0].index(b"\x18\x53\x80\x67")]
        + element(
            0x18538067,
            element(
                0x1654AE6B,
                element(0xAE, element(0xE0, element(0xB0, b"\x3d"), element(0xBA, b"\x25"))),
            ),
            element(0x1F43B675, element(0xA3, bytes(9))),
            element(0x1254C367, b"AIGC"),
        ),
        [("text", "Tags", 4), ("aigc", "Tags", 4)],
    ),
}


@pytest.fixture
def look(tmp_path: Path) -> Callable[[bytes], list[tuple[str, str, int]]]:
    """Return the marks in these bytes."""

    def call(content: bytes) -> list[tuple[str, str, int]]:
        (tmp_path / "picture").write_bytes(content)
        return [(mark.kind, mark.name, mark.size) for mark in inspect(tmp_path / "picture").marks]

    return call


@pytest.mark.parametrize("kind", MARKED)
def test_marks_are_listed(kind: str, look: Callable[[bytes], list[tuple[str, str, int]]]) -> None:
    content, marks = MARKED[kind]
    assert look(content) == marks
    assert {mark[0] for mark in marks} <= set(MARK_KINDS)


def test_names_are_printable_and_their_number_is_limited(
    look: Callable[[bytes], list[tuple[str, str, int]]],
) -> None:
    texts = b"".join(chunk(b"tEXt", b"\x1b[%d\0x" % number) for number in range(100))
    found = look(after_header(PNG, texts))
    assert len(found) == 20
    assert found[0] == ("text", ".[0", 5)
