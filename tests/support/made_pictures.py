"""Pictures and videos for tests of the inspection: drawn by Pillow, or built box by box."""

import io
import struct
import zlib

from PIL import Image

SIZE = (61, 37)
FRAMES = [Image.effect_noise(SIZE, 90).convert("RGB") for _ in range(3)]


def drawn(form: str, **options: object) -> bytes:
    """Draw a noisy picture, which compresses badly, in a format of Pillow's."""
    out = io.BytesIO()
    mode = options.pop("mode", "RGB")
    FRAMES[0].convert(str(mode)).save(out, form, **options)
    return out.getvalue()


def box(name: bytes, *contents: bytes) -> bytes:
    """Make an ISO box."""
    body = b"".join(contents)
    return struct.pack(">I4s", 8 + len(body), name) + body


def long_box(name: bytes, body: bytes) -> bytes:
    """Make an ISO box whose length has 64 bits."""
    return struct.pack(">I4sQ", 1, name, 16 + len(body)) + body


def track(width: int, height: int, version: int = 0) -> bytes:
    """Make the track of a video."""
    return box(
        b"trak",
        box(
            b"tkhd",
            bytes([version]),
            bytes(87 if version else 75),
            struct.pack(">HHHH", width, 0, height, 0),
        ),
        box(b"mdia"),
    )


def video(*tracks: bytes, brand: bytes = b"isom", end: bytes = box(b"mdat", bytes(500))) -> bytes:
    """Make an MP4 file."""
    return (
        box(b"ftyp", brand, bytes(4), b"iso2mp41")
        + box(b"moov", box(b"mvhd", bytes(100)), *tracks)
        + box(b"free")
        + end
    )


def avif(
    *inside: bytes,
    sizes: tuple[tuple[int, int], ...] = (SIZE,),
    end: bytes = b"",
    place: tuple[int, int, int] = (1, 0, 1),
) -> bytes:
    """Make an AVIF file. Its item is at ``place``: 0 in the file or 1 in idat, offset, length."""
    method, offset, length = place
    item = struct.pack(">HHHHII", 1, method, 0, 1, offset, length)
    iloc = box(b"iloc", b"\1\0\0\0", struct.pack(">HH", 0x4400, 1), item)
    ispe = [box(b"ispe", bytes(4), struct.pack(">II", *size)) for size in sizes]
    meta = box(
        b"meta",
        bytes(4),
        box(b"hdlr", bytes(25)),
        iloc,
        box(b"iprp", box(b"ipco", box(b"pasp", bytes(8)), *ispe)),
        *inside,
    )
    return box(b"ftyp", b"avif", bytes(4), b"mif1") + meta + end


def chunk(name: bytes, body: bytes = b"") -> bytes:
    """Make a PNG chunk."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(*chunks: bytes, header: bytes = struct.pack(">IIBBBBB", *SIZE, 8, 2, 0, 0, 0)) -> bytes:
    """Make a PNG file of these chunks."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks)


UNKNOWN = b"\xff"  # the coded size of an element whose end is not known


def element(name: int, *contents: bytes, size: bytes | None = None) -> bytes:
    """Make an EBML element; ``size`` replaces its coded size."""
    body = b"".join(contents)
    head = name.to_bytes((name.bit_length() + 7) // 8, "big")
    return head + (size or (1 << 28 | len(body)).to_bytes(4, "big")) + body


def webm(size: bytes | None = None, kind: bytes = b"webm") -> bytes:
    """Make a WebM file; ``size`` replaces the coded sizes of its segment and clusters."""
    header = element(0x1A45DFA3, element(0x4282, kind))
    sides = [element(0xB0, struct.pack(">H", SIZE[0])), element(0xBA, struct.pack(">H", SIZE[1]))]
    sound, picture = element(0xAE, element(0xE1)), element(0xAE, element(0xE0, *sides))
    tracks = element(0x1654AE6B, sound, picture)
    cluster = element(0x1F43B675, element(0xE7, b"\0"), element(0xA3, bytes(300)), size=size)
    info, cues = element(0x1549A966, element(0xEC, bytes(9))), element(0x1C53BB6B, bytes(0))
    return header + element(0x18538067, info, tracks, cluster, cluster, cues, size=size)


IEND = chunk(b"IEND")
PNG = ("image/png", "png")
JPEG = ("image/jpeg", "jpg")
WEBP = ("image/webp", "webp")
GIF = ("image/gif", "gif")
AVIF = ("image/avif", "avif")
MP4 = ("video/mp4", "mp4")
MOV = ("video/quicktime", "mov")
WEBM = ("video/webm", "webm")
MANY = {"save_all": True, "append_images": FRAMES[1:]}

WHOLE = {
    "png": (drawn("PNG"), PNG),
    "png with transparency": (drawn("PNG", mode="RGBA"), PNG),
    "png of two colours": (drawn("PNG", mode="1"), PNG),
    "png with a palette": (drawn("PNG", mode="P"), PNG),
    "animated png": (drawn("PNG", **MANY), PNG),
    "jpeg": (drawn("JPEG"), JPEG),
    "progressive jpeg": (drawn("JPEG", progressive=True), JPEG),
    "grey jpeg": (drawn("JPEG", mode="L"), JPEG),
    "jpeg with restarts": (drawn("JPEG", restart_marker_blocks=1), JPEG),
    "jpeg with lone markers and fill bytes": (
        b"\xff\xd8\xff\x01\xff\xff\xff" + drawn("JPEG")[3:],
        JPEG,
    ),
    "jpeg with another one inside": (
        drawn("JPEG", exif=b"Exif\0\0" + drawn("JPEG"), comment="\u00ff\u00d9"),
        JPEG,
    ),
    "webp": (drawn("WEBP"), WEBP),
    "lossless webp": (drawn("WEBP", lossless=True), WEBP),
    "webp with transparency": (drawn("WEBP", mode="RGBA"), WEBP),
    "webp with metadata": (drawn("WEBP", exif=b"Exif\0\0x"), WEBP),
    "animated webp": (drawn("WEBP", **MANY), WEBP),
    "gif": (drawn("GIF"), GIF),
    "animated gif": (drawn("GIF", loop=0, **MANY), GIF),
    "interlaced gif": (drawn("GIF", interlace=1, comment=b"hello"), GIF),
    "avif": (drawn("AVIF"), AVIF),
    "avif with transparency": (drawn("AVIF", mode="RGBA"), AVIF),
    "animated avif": (drawn("AVIF", **MANY), AVIF),
    "avif that keeps its data inside": (
        avif(box(b"idat", bytes(9)), sizes=((8, 8), SIZE, (9, 9))),
        AVIF,
    ),
    "mp4": (video(track(0, 0), track(*SIZE)), MP4),
    "mp4 of long times": (video(track(*SIZE, version=1)), MP4),
    "mp4 with long boxes": (video(track(*SIZE), end=long_box(b"mdat", bytes(500))), MP4),
    "quicktime that is also mp4": (video(track(*SIZE), brand=b"qt  "), MOV),
    "quicktime without a brand": (video(track(*SIZE))[24:], MOV),
    "3gp": (video(track(*SIZE), brand=b"3gp5"), ("video/3gpp", "3gp")),
    "bmp": (drawn("BMP"), ("image/bmp", "bmp")),
    "bmp with a palette": (drawn("BMP", mode="P"), ("image/bmp", "bmp")),
    "webm": (webm(), WEBM),
    "matroska": (webm(kind=b"matroska"), ("video/x-matroska", "mkv")),
}
