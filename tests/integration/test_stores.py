"""What every store promises, tried on a directory and on a bucket of a real S3 server."""

import hashlib
import secrets
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from threading import Barrier

import pytest

from receiver.archive.stores import Store
from receiver.archive.stores.archive_url import open_store
from receiver.errors import MissingObjectError, ObjectDiffersError, StoreError

KEY = "2026/07/01/01JZ2Q7V3N0000000000000000/0.png"
MANIFEST = "2026/07/01/01JZ2Q7V3N0000000000000000/job.json"


@pytest.fixture(params=["directory", "bucket"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give an ARCHIVE_URL with nothing behind it yet."""
    if request.param == "directory":
        return f"file://{tmp_path}/archive"
    return f"s3://{request.getfixturevalue('bucket')}/some/prefix"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """Open the store behind the URL."""
    with closing(open_store(url)) as store:
        yield store


@pytest.fixture
def picture(tmp_path: Path) -> Callable[[bytes], tuple[Path, str]]:
    """Make files as a fetch leaves them: a path and the SHA-256 of its bytes."""

    def make(data: bytes) -> tuple[Path, str]:
        path = tmp_path / f"fetched-{secrets.token_hex(4)}"
        path.write_bytes(data)
        return path, hashlib.sha256(data).hexdigest()

    return make


Picture = Callable[[bytes], tuple[Path, str]]


def put(store: Store, key: str, file: tuple[Path, str]) -> None:
    store.put(key, file[0], sha256=file[1], content_type="image/png")


def read(store: Store, key: str) -> bytes:
    with store.open(key) as stream:
        return stream.read()


def test_what_was_put_comes_back(store: Store, picture: Picture) -> None:
    data = secrets.token_bytes(700_001)
    put(store, KEY, picture(data))
    assert read(store, KEY) == data


def test_an_empty_file_comes_back_empty(store: Store, picture: Picture) -> None:
    put(store, KEY, picture(b""))
    assert read(store, KEY) == b""


def test_an_object_can_be_read_in_parts_and_given_up_half_way(
    store: Store, picture: Picture
) -> None:
    data = secrets.token_bytes(1_000_000)
    put(store, KEY, picture(data))
    with store.open(KEY) as stream:
        assert stream.read(10) == data[:10]
        assert stream.read(300_000) == data[10:300_010]
    assert read(store, KEY) == data


def test_the_same_bytes_can_be_put_again(store: Store, picture: Picture) -> None:
    put(store, KEY, picture(b"first"))
    put(store, KEY, picture(b"first"))
    assert read(store, KEY) == b"first"


def test_other_bytes_are_refused_and_the_first_ones_stay(store: Store, picture: Picture) -> None:
    put(store, KEY, picture(b"first"))
    with pytest.raises(ObjectDiffersError, match="png already holds other bytes"):
        put(store, KEY, picture(b"other"))
    assert read(store, KEY) == b"first"


def test_of_eight_racing_puts_one_wins(url: str, picture: Picture) -> None:
    files = [picture(f"picture {number}".encode()) for number in range(8)]
    start = Barrier(8)

    def race(file: tuple[Path, str]) -> bool:
        with closing(open_store(url)) as store:  # one each, as if each were a process
            store.check()
            start.wait(20)
            with suppress(ObjectDiffersError):
                put(store, KEY, file)
                return True
        return False

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(race, files))
    assert won.count(True) == 1
    with closing(open_store(url)) as store:
        assert read(store, KEY) == f"picture {won.index(True)}".encode()


def test_racing_puts_of_the_same_bytes_all_succeed(store: Store, picture: Picture) -> None:
    files = [picture(b"the same") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda file: put(store, KEY, file), files))
    assert read(store, KEY) == b"the same"


def test_a_manifest_is_replaced(store: Store) -> None:
    store.replace(MANIFEST, b'{"assets": []}', content_type="application/json")
    store.replace(MANIFEST, b"{}", content_type="application/json")
    assert read(store, MANIFEST) == b"{}"


def test_a_missing_object_is_named(store: Store) -> None:
    with pytest.raises(MissingObjectError, match="cannot read 2026/none from"):
        store.open("2026/none")


def test_a_file_that_is_gone_before_it_is_stored_is_an_error_of_ours(
    store: Store, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match=f"cannot store {KEY} .*gone"):
        put(store, KEY, (tmp_path / "gone", "0" * 64))
    with pytest.raises(MissingObjectError):
        store.open(KEY)


def test_a_file_that_is_not_what_was_fetched_never_counts_as_stored(
    store: Store, picture: Picture
) -> None:
    path, sha256 = picture(b"fetched")
    path.write_bytes(b"changed since")
    with pytest.raises(StoreError, match="SHA-256"):
        put(store, KEY, (path, sha256))
    put(store, KEY, picture(b"fetched"))
    assert read(store, KEY) == b"fetched"


NO_KEYS = [
    "",
    "/etc/passwd",
    "../out",
    "a/../../out",
    "a//b",
    "a/",
    "./a",
    "a/.hidden",
    ".tmp/a",
    "a\\b",
    "a\0b",
    "a\nb",
    "ä.png",
    "a b",
]
TOO_LONG = ["x" * 256, "a/" * 300 + "a"]


@pytest.mark.parametrize("key", NO_KEYS + TOO_LONG)
def test_what_is_no_key_is_refused_by_every_method(
    store: Store, picture: Picture, key: str
) -> None:
    file = picture(b"bytes")
    for use in (
        lambda: put(store, key, file),
        lambda: store.replace(key, b"bytes", content_type="text/plain"),
        lambda: store.open(key),
        lambda: store.locate(key),
    ):
        with pytest.raises(ValueError, match="not a key"):
            use()


def test_check_is_content_with_a_place_to_write_and_leaves_no_object(
    store: Store, picture: Picture
) -> None:
    store.check()
    store.check()
    put(store, KEY, picture(b"after the check"))
    assert read(store, KEY) == b"after the check"


def test_locate_says_where_an_object_is(store: Store, url: str) -> None:
    assert store.locate(KEY) == url.removeprefix("file://") + "/" + KEY


def test_a_closed_store_can_be_used_again(store: Store, picture: Picture) -> None:
    put(store, KEY, picture(b"before"))
    store.close()
    assert read(store, KEY) == b"before"


def test_sixty_megabytes_pass_through_a_few(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(60_000_000)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    store.check()  # boto3 loads its description of S3 now, and that is large
    tracemalloc.start()
    try:
        put(store, KEY, (path, sha256))
        with store.open(KEY) as stream:
            assert sum(len(part) for part in iter(lambda: stream.read(65536), b"")) == 60_000_000
        assert tracemalloc.get_traced_memory()[1] < 6_000_000
    finally:
        tracemalloc.stop()
