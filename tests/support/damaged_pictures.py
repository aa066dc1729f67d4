"""Files with every defect and every cut that the inspection knows, made from whole ones."""

import struct
import zlib

from made_pictures import SIZE, UNKNOWN, WHOLE, avif, box, chunk, drawn, png, track, video, webm

PNG, JPEG, GIF, WEBP, AVIF, MP4 = (
    WHOLE[kind][0] for kind in ("png", "jpeg", "gif", "webp", "avif", "mp4")
)
FINE_JPEG = drawn("JPEG", quality=100)
STRAY = b"\r\n<!-- served by cdn -->"
IDAT_AT = PNG.index(b"IDAT")
IDAT_CRC = IDAT_AT + 4 + struct.unpack_from(">I", PNG, IDAT_AT - 4)[0]


def after_header(png_file: bytes, extra: bytes) -> bytes:
    """Insert a chunk after IHDR."""
    return png_file[:33] + extra + png_file[33:]


def after_first(extra: bytes) -> bytes:
    """Insert bytes after the first segment of a JPEG."""
    return JPEG[:20] + extra + JPEG[20:]


def flipped(content: bytes, at: int) -> bytes:
    """Change a byte."""
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def with_samples(length: int, *sizes: int, brand: bytes = b"isom", claim: int = 0) -> bytes:
    """Make a video with ``length`` bytes of media; its box claims ``claim`` more, or is endless."""
    head = video(_track(0, sizes), brand=brand, end=b"")
    head = video(_track(len(head) + 8, sizes), brand=brand, end=b"")
    return (
        head + struct.pack(">I4s", 8 + length + claim if claim >= 0 else 0, b"mdat") + bytes(length)
    )


def _track(offset: int, sizes: tuple[int, ...]) -> bytes:
    table = box(
        b"stbl",
        box(b"stsz", bytes(8), struct.pack(f">I{len(sizes)}I", len(sizes), *sizes)),
        box(b"stsc", bytes(4), struct.pack(">IIII", 1, 1, len(sizes), 1)),
        box(b"stco", bytes(4), struct.pack(">II", 1, offset)),
    )
    tkhd = track(*SIZE)[8:-8]
    return box(b"trak", tkhd, box(b"mdia", box(b"minf", table)))


FRAGMENT = box(b"moof", box(b"mfhd", bytes(8))) + box(b"mdat", bytes(200))
INIT = box(b"ftyp", b"iso5", bytes(4), b"dash") + box(b"moov", box(b"mvex"), track(*SIZE))


def indexed(count: int, length: int) -> bytes:
    """Make a segment index of this many fragments."""
    references = struct.pack(">III", length, 0, 0) * count
    return box(b"sidx", bytes(12), struct.pack(">IIHH", 0, 0, 0, count), references)


def avif_with_data(length: int, claim: int = 0) -> bytes:
    """Make an AVIF whose item lies in the file; ``claim`` is added to the length of its box."""
    start = len(avif(place=(0, 0, length))) + 8
    return (
        avif(place=(0, start, length))
        + struct.pack(">I4s", 8 + length + claim, b"mdat")
        + bytes(length)
    )


def with_exif_after_the_end() -> bytes:
    """Make an AVIF of which the list of items says that its Exif data ends after the file."""
    content = drawn("AVIF", exif=b"Exif\0\0MM\0*\0\0\0\x08" + bytes(6))
    place = struct.pack(">I", content.index(b"Exif\0\0MM") - 4)  # Exif items begin with an offset
    at = content.index(place) + 4
    return content[:at] + b"\0\1\0\0" + content[at + 4 :]


# Pictures that viewers show although something is wrong, and how the defect is recorded.
TOLERATED = {
    "bytes after a png": (PNG + STRAY, "24 bytes after the end"),
    "bytes after a jpeg": (JPEG + STRAY, "24 bytes after the end"),
    "bytes after a gif": (GIF + STRAY, "24 bytes after the end"),
    "bytes after a webp": (WEBP + STRAY, "24 bytes after the end"),
    "bytes after the last box of an avif": (AVIF + STRAY, "24 bytes after the end"),
    "zeros after the last box of an avif": (AVIF + bytes(64), "64 bytes after the end"),
    "bytes after the last box of an mp4": (MP4 + STRAY, "24 bytes after the end"),
    "a few bytes after the last box of an mp4": (MP4 + b"\r\n", "2 bytes after the end"),
    "bytes after a webm": (webm() + STRAY, "24 bytes after the end"),
    "stray bytes between jpeg segments": (after_first(b"stray bytes"), "stray bytes between"),
    "a jpeg comment that is longer than it says": (
        after_first(b"\xff\xfe\0\4abcdefg"),
        "stray bytes between",
    ),
    "a jpeg segment of no length": (after_first(b"\xff\xe5\0\0"), "wrong length"),
    "a wrong checksum of a png text": (
        after_header(PNG, flipped(chunk(b"iTXt", b"a\0b"), 12)),
        "checksum of PNG chunk 'iTXt'",
    ),
    "a wrong checksum of png credentials": (
        after_header(PNG, flipped(chunk(b"caBX", b"abc"), 12)),
        "checksum of PNG chunk 'caBX'",
    ),
    "a wrong checksum of png pixels that are right": (
        flipped(PNG, IDAT_CRC),
        "checksum of PNG chunk 'IDAT'",
    ),
    "a byte in place of a gif trailer": (GIF[:-1] + b"\0;", "in place of the GIF"),
    "a webp with stray bytes after its picture": (
        WEBP[:4] + struct.pack("<I", len(WEBP) + 2) + WEBP[8:] + bytes(10),
        "stray bytes after the WebP",
    ),
    "an avif whose metadata would end after the file": (
        with_exif_after_the_end(),
        "metadata of the AVIF file (exif)",
    ),
    "an avif sequence without meta": (
        with_samples(30, 10, 20, brand=b"avis"),
        "without a still picture",
    ),
}
# Files that miss only their end marker; they are archived if nothing better comes.
UNFINISHED = {
    "a png without IEND": PNG[:-12],
    "a png that ends within IEND": PNG[:-5],
    "a png that ends before its last checksum": PNG[: IDAT_CRC + 1],
    "a png with zeros in place of IEND": PNG[:-12] + bytes(12),
    "a png with zeros from its last checksum on": PNG[: IDAT_CRC - 4] + bytes(20),
    "a png with other bytes in place of IEND": PNG[:-12] + STRAY,
    "an interlaced png without IEND": png(
        chunk(b"IDAT", zlib.compress(bytes(3 * 61 * 37 + 200))),
        header=struct.pack(">IIBBBBB", *SIZE, 8, 2, 0, 0, 1),
    ),
    "a jpeg without EOI": JPEG[:-2],
    "a jpeg with half of EOI": JPEG[:-1],
    "a progressive jpeg without EOI": WHOLE["progressive jpeg"][0][:-2],
    "a grey jpeg without EOI": WHOLE["grey jpeg"][0][:-2],
    "a jpeg with restarts without EOI": WHOLE["jpeg with restarts"][0][:-2],
    "a jpeg with zeros in place of EOI": JPEG[:-2] + bytes(500),
    "a jpeg with another marker in place of EOI": JPEG[:-1] + b"\xdb",
    "a jpeg without EOI before another": JPEG[:-2] + JPEG,
    "a gif without its trailer": GIF[:-1],
    "a gif without its last terminator": GIF[:-2],
    "an interlaced gif without its last terminator": WHOLE["interlaced gif"][0][:-2],
    "an animated gif without its trailer": WHOLE["animated gif"][0][:-1],
    "an avif whose last box is too long": avif_with_data(40, claim=5),
    "an mp4 whose last box is too long": with_samples(30, 10, 20, claim=5),
}
# Files that do not say where they end; they are archived if all bytes came.
OPEN_ENDED = {
    "an mp4 in fragments": INIT + FRAGMENT * 3,
    "an mp4 with an index before each fragment": INIT + (indexed(1, len(FRAGMENT)) + FRAGMENT) * 3,
    "an mp4 whose last box has no length": video(
        track(*SIZE), end=struct.pack(">I4s", 0, b"mdat") + bytes(500)
    ),
    "a live webm": webm(UNKNOWN),
}
# Whole files in a less usual form.
COMPLETE = {
    "an mp4 that begins with a free box": box(b"free", bytes(8)) + MP4,
    "an mp4 in fragments with an index": INIT + indexed(3, len(FRAGMENT)) + FRAGMENT * 3,
    "an mp4 in fragments with mfra": INIT + FRAGMENT * 3 + box(b"mfra", bytes(9)),
    "an mp4 with tables and a last box without a length": with_samples(30, 10, 20, claim=-1),
    "an avif with data in the file": avif_with_data(40),
}
# Files without a part that viewers need.
CUT = {
    "an avif whose item ends after the file": avif(place=(0, 400, 100)) + box(b"mdat", bytes(40)),
    "an avif whose last box has no length": avif_with_data(40, claim=-48)[:-1],
    "an mp4 with tables that lacks a byte": with_samples(30, 10, 21),
    "an mp4 with tables and an endless box that lacks a byte": with_samples(29, 10, 20, claim=-1),
    "fragments that are fewer than the index says": (
        INIT + indexed(3, len(FRAGMENT)) + FRAGMENT * 2
    ),
    "a fragment without its data": INIT + FRAGMENT + FRAGMENT[:16],
    "a png with half of its pixels": png(chunk(b"IDAT", zlib.compress(bytes(3 * 61 * 18)))),
    "a jpeg that ends within its scan": JPEG[:-12],
    "a jpeg with zeros in place of its second half": FINE_JPEG[: len(FINE_JPEG) // 2]
    + bytes(len(FINE_JPEG) // 2),
    "a progressive jpeg without its last scan": WHOLE["progressive jpeg"][0][
        : WHOLE["progressive jpeg"][0].rindex(b"\xff\xda")
    ],
    "an animated png that ends between frames": WHOLE["animated png"][0][
        : WHOLE["animated png"][0].rindex(b"fcTL") - 4
    ],
    "a gif that ends within its picture": GIF[:-20],
    "a gif with zeros in place of its second half": GIF[: len(GIF) // 2] + bytes(len(GIF) // 2),
    "a gif that ends after the beginning of a frame": WHOLE["animated gif"][0][:-1]
    + b"!\xf9\4\0\0\0\0\0",
    "a webp whose RIFF length is too large": WEBP[:4]
    + struct.pack("<I", len(WEBP) + 92)
    + WEBP[8:],
    "a vp8 picture whose first partition is too long": WEBP[:20] + b"\xf0\xff\xff" + WEBP[23:],
    "a bmp without its last row": WHOLE["bmp"][0][:-100],
    "a webm that ends within a cluster": webm()[:-60],
}
