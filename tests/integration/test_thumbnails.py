"""Thumbnails: hostile files may kill their process but do no other harm; space is limited."""

import ast
import io
import os
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from waiting import LIMIT

from receiver.archive import thumbnails
from receiver.archive.stores.directory import DirectoryStore
from receiver.archive.thumbnails import BusyError, Thumbnails
from receiver.errors import StoreError
from receiver.ledger.rows import Asset
from receiver.model import AssetState

Put = Callable[..., Asset]


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "archive")


@pytest.fixture
def small(store: DirectoryStore, tmp_path: Path) -> Thumbnails:
    return Thumbnails(store, tmp_path / "thumbnails")


@pytest.fixture
def put(store: DirectoryStore, tmp_path: Path) -> Put:
    """Archive these bytes as a picture, and return its row."""

    def put(data: bytes, content_type: str = "image/png") -> Asset:
        digest, path = sha256(data).hexdigest(), tmp_path / "fetched"
        path.write_bytes(data)
        key = f"2026/07/01/{digest[:26]}/0.png"
        store.put(key, path, sha256=digest, content_type=content_type)
        of_picture: dict[str, Any] = {
            "key": key,
            "sha256": digest,
            "size": len(data),
            "content_type": content_type,
            "width": 1,
            "height": 1,
        }
        return Asset(
            digest[:26],
            0,
            AssetState.ARCHIVED,
            "u",
            0,
            0,
            due_at=None,
            claim=None,
            attempts=1,
            crashes=0,
            error="",
            finished_at=0,
            **of_picture,
        )

    return put


def picture(
    form: str = "PNG", size: tuple[int, int] = (900, 600), mode: str = "RGB", **options: Any
) -> bytes:
    made = io.BytesIO()
    Image.new(mode, size, "#00808040" if mode == "RGBA" else "teal").save(made, form, **options)
    return made.getvalue()


def opened(data: bytes | None) -> Image.Image:
    assert data is not None
    return Image.open(io.BytesIO(data), formats=["WEBP"])


def png(width: int, height: int, pixels: bytes) -> bytes:
    """Build a PNG that claims these dimensions, whatever pixels it has."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(pixels))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "AVIF"])
def test_every_kind_of_picture_becomes_a_small_webp(small: Thumbnails, put: Put, form: str) -> None:
    shown = opened(small.get(put(picture(form), f"image/{form.lower()}")))
    assert (shown.format, shown.size) == ("WEBP", (512, 341))


def test_a_preview_is_larger_than_a_thumbnail_and_both_are_kept(
    small: Thumbnails, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset = put(picture(size=(3200, 2000)))
    assert opened(small.get(asset, thumbnails.PREVIEW)).size == (1600, 1000)
    assert opened(small.get(asset)).size == (512, 320)
    monkeypatch.setattr(thumbnails, "_PROGRAM", Path("/nowhere"))
    assert opened(small.get(asset, thumbnails.PREVIEW)).size == (1600, 1000)


def test_a_small_picture_is_not_blown_up_and_stays_transparent(small: Thumbnails, put: Put) -> None:
    shown = opened(small.get(put(picture(size=(20, 10), mode="RGBA"))))
    assert (shown.size, shown.mode) == ((20, 10), "RGBA")


def test_a_thumbnail_is_upright_and_without_camera_data(small: Thumbnails, put: Put) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera's name"
    data = small.get(put(picture("JPEG", exif=exif), "image/jpeg"))
    assert opened(data).size == (341, 512)
    assert b"camera" not in (data or b"")


def test_of_a_moving_picture_the_first_frame_is_shown(small: Thumbnails, put: Put) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    made = io.BytesIO()
    frames[0].save(made, "GIF", save_all=True, append_images=frames[1:])
    red, green, blue = (
        opened(small.get(put(made.getvalue(), "image/gif"))).convert("RGB").getpixel((32, 32))  # type: ignore[misc]  # three
    )
    assert (red > 200, max(green, blue) < 60) == (True, True)


HOSTILE = {
    "nothing at all": b"",
    "no picture": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>" * 10,
    "PostScript, which a decoder would run": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"
    ),
    "the beginning of a picture": picture()[:200],
    "absurd dimensions": png(100_000, 100_000, b"\0" * 100),
    "a bomb of four gigabytes": png(2**31 - 1, 2**31 - 1, b"\0" * 10_000_000),
    "more pixels than are worth it": png(9000, 9000, b"\0"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_has_no_thumbnail_and_that_is_remembered(
    small: Thumbnails, put: Put, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset = put(HOSTILE[kind] or b"\0")
    assert small.get(asset) is None
    monkeypatch.setattr(thumbnails, "_PROGRAM", Path("/nowhere"))
    assert small.get(asset) is None, "it is not made again"


WRITES = "sys.stdout.buffer.write(shrink(int(sys.argv[1])))"
HOSTILE_CODE = {
    "endless work": "while True: pass",
    "endless memory": "held = [bytearray(1 << 26) for _ in range(1 << 20)]",
    "endless output": "while True: sys.stdout.buffer.write(bytes(1 << 16))",
    "a crash": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "a file too many": "held = [open('/dev/null') for _ in range(100)]",
}


@pytest.mark.parametrize("kind", HOSTILE_CODE)
def test_a_decoder_that_was_taken_over_can_do_little_and_not_for_long(
    small: Thumbnails, put: Put, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program.py"
    ours = Path(thumbnails.__file__).with_name("thumbnail_process.py").read_text(encoding="utf-8")
    tighter = ours.replace("resource.RLIMIT_CPU: 10", "resource.RLIMIT_CPU: 1")
    assert tighter != ours
    assert WRITES in ours
    program.write_text(tighter.replace(WRITES, HOSTILE_CODE[kind]), encoding="utf-8")
    monkeypatch.setattr(thumbnails, "_PROGRAM", program)
    assert small.get(put(picture())) is None


def test_the_decoder_sees_nothing_of_ours(
    small: Thumbnails, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys\n"
        "seen = sorted(os.environ), os.listdir('/proc/self/fd'), os.getcwd()\n"
        "sys.stdout.write(repr(seen))\n"
        "sys.stdout.flush()\n"
    )
    monkeypatch.setattr(thumbnails, "_PROGRAM", program)
    monkeypatch.setenv("SECRET", "planted")
    held = os.memfd_create("a descriptor of ours")
    os.set_inheritable(held, True)
    try:
        environment, files, folder = ast.literal_eval((small.get(put(picture())) or b"").decode())
    finally:
        os.close(held)
    assert (set(environment) <= {"LC_CTYPE"}, len(files), folder) == (True, 4, "/"), (
        "the fourth file is that list itself"
    )


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "AVIF"])
def test_the_program_makes_one_of_every_format(form: str, tmp_path: Path) -> None:
    """The limit on processes, which threads count towards, holds for everybody but root."""
    program = (
        Path(thumbnails.__file__).with_name("thumbnail_process.py").read_text(encoding="utf-8")
    )
    (tmp_path / "picture").write_bytes(picture(form))
    as_other_user = (
        []
        if os.getuid()
        else ["/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    )
    with (tmp_path / "picture").open("rb") as original, (tmp_path / "small").open("wb") as result:
        subprocess.run(
            [*as_other_user, sys.executable, "-I", "-c", program, "512"],
            stdin=original,
            stdout=result,
            env={},
            check=True,
            timeout=30,
        )
    assert opened((tmp_path / "small").read_bytes()).size == (512, 341)


def test_one_that_takes_long_is_killed_and_may_be_asked_for_again(
    small: Thumbnails, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program.py"
    program.write_text("import signal; signal.pause()", encoding="utf-8")
    monkeypatch.setattr(thumbnails, "_PROGRAM", program)
    monkeypatch.setattr(thumbnails, "MAKE_TIMEOUT", 0.2)
    asset = put(picture())
    with pytest.raises(BusyError):
        small.get(asset)
    monkeypatch.undo()
    assert small.get(asset) is not None


@pytest.mark.parametrize(
    ("content_type", "size"),
    [("video/mp4", 10), ("text/html", 10), ("image/png", thumbnails.MAX_ORIGINAL_SIZE + 1)],
)
def test_what_is_no_picture_or_too_large_is_not_even_opened(
    small: Thumbnails, put: Put, content_type: str, size: int
) -> None:
    asset = replace(put(picture()), content_type=content_type, size=size, key="2026/not/there.png")
    assert small.get(asset) is None


def test_an_archive_that_is_away_is_an_error_and_not_cached(small: Thumbnails, put: Put) -> None:
    asset = put(picture())
    with pytest.raises(StoreError):
        small.get(replace(asset, key="2026/07/01/elsewhere/0.png"))
    assert small.get(asset) is not None


def test_a_thumbnail_is_made_once_and_shared_by_equal_pictures(
    small: Thumbnails, put: Put, tmp_path: Path
) -> None:
    asset = put(picture())
    first = small.get(asset)
    (kept,) = (path for path in (tmp_path / "thumbnails").glob("*/*"))
    assert kept.parent.stat().st_mode & 0o077 == 0
    (tmp_path / "archive" / str(asset.key)).unlink()
    assert small.get(replace(asset, ref="another")) == first


def test_few_are_made_at_a_time_few_wait_and_the_rest_is_sent_away(
    store: DirectoryStore, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thumbnails, "MAX_RUNNING", 1)
    monkeypatch.setattr(thumbnails, "MAX_WAITING", 1)
    monkeypatch.setattr(thumbnails, "WAIT_TIMEOUT", 0.05)
    small = Thumbnails(store, tmp_path / "thumbnails")
    first, second = put(picture()), put(picture(size=(10, 10)))
    entered, let_go = threading.Event(), threading.Event()

    def slow(*_given: object) -> bytes:
        entered.set()
        let_go.wait(20)
        return b"made"

    monkeypatch.setattr(thumbnails, "_run_decoder", slow)
    maker = threading.Thread(target=small.get, args=(first,))
    maker.start()
    try:
        assert entered.wait(20)
        with pytest.raises(BusyError, match="take long"):
            small.get(second)
        with small._admitted, pytest.raises(BusyError, match="many"):
            small.get(second)
    finally:
        let_go.set()
        maker.join(LIMIT)
    assert small.get(second) == b"made", "a place is given back"


def test_two_are_made_at_a_time_by_all_processes_of_a_machine(
    store: DirectoryStore, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of these stand for two processes: each knows the others by the folder alone."""
    folder = tmp_path / "thumbnails"
    busy = [Thumbnails(store, folder) for _ in range(thumbnails.MAX_RUNNING)]
    late = Thumbnails(store, folder)
    asset = put(picture())
    monkeypatch.setattr(thumbnails, "WAIT_TIMEOUT", 0.05)
    with ExitStack() as places:
        for one in busy:
            places.enter_context(one._place())
        with pytest.raises(BusyError, match="take long"):
            late.get(asset)
    assert late.get(asset) is not None


@pytest.mark.parametrize(
    "form",
    [
        "PNG",
        pytest.param("WEBP", marks=pytest.mark.thorough),
        pytest.param("AVIF", marks=pytest.mark.thorough),
    ],
)
def test_the_largest_pictures_of_providers_fit_into_the_memory(
    small: Thumbnails, put: Put, form: str
) -> None:
    made, whole = (
        io.BytesIO(),
        Image.new("RGBA" if form in {"PNG", "WEBP"} else "RGB", (4096, 4096)),
    )
    options = {"AVIF": {"speed": 10}, "WEBP": {"method": 0}}.get(form, {})
    whole.save(made, form, **options)
    asset = replace(put(made.getvalue(), f"image/{form.lower()}"), width=4096, height=4096)
    assert opened(small.get(asset)).size == (512, 512)


def test_what_does_not_fit_into_the_memory_has_no_thumbnail_and_is_not_in_doubt(
    small: Thumbnails, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = replace(put(png(6000, 6000, b"")), width=6000, height=6000)
    assert small.doubt(wide) == ""
    assert small.get(wide) is None
    program = tmp_path / "program.py"
    ours = Path(thumbnails.__file__).with_name("thumbnail_process.py").read_text(encoding="utf-8")
    program.write_text(ours.replace("256 * 1024**2", "48 * 1024**2"), encoding="utf-8")
    monkeypatch.setattr(thumbnails, "_PROGRAM", program)
    assert small.doubt(put(picture(size=(3000, 3000)))) == ""


def test_the_folder_is_bounded_and_what_was_not_wanted_the_longest_goes_first(
    store: DirectoryStore, put: Put, tmp_path: Path
) -> None:
    small = Thumbnails(store, tmp_path / "thumbnails")
    assets = [put(picture(size=(size, size))) for size in (20, 21, 22)]
    for age, asset in enumerate(assets):
        small.get(asset)
        os.utime(small._path(asset), (age, age))
    small.get(assets[0])  # wanted again
    whole = sum(path.stat().st_size for path in (tmp_path / "thumbnails").glob("*/*"))
    Thumbnails(store, tmp_path / "thumbnails", max_cache_size=whole).evict()
    assert all(small._path(asset).exists() for asset in assets)
    Thumbnails(store, tmp_path / "thumbnails", max_cache_size=whole - 1).evict()
    assert [small._path(asset).exists() for asset in assets] == [True, False, True]


def test_a_full_disk_is_an_error_and_not_cached(
    store: DirectoryStore, put: Put, tmp_path: Path
) -> None:
    (tmp_path / "thumbnails").write_text("in the way")
    small, asset = Thumbnails(store, tmp_path / "thumbnails"), put(picture())
    with pytest.raises(StoreError, match="no thumbnail can be made in"):
        small.get(asset)
    (tmp_path / "thumbnails").unlink()
    assert small.get(asset) is not None


def test_a_thumbnail_that_cannot_be_kept_is_shown_all_the_same(
    small: Thumbnails, put: Put, tmp_path: Path
) -> None:
    asset = put(picture())
    (tmp_path / "thumbnails").mkdir()
    small._path(asset).parent.write_text("in the way")
    assert small.get(asset) is not None
