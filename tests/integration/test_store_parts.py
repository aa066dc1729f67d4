"""Parts of objects, and links to them, tried on a directory and on a bucket of a real S3 server."""

import hashlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests

from receiver.archive.stores import Store
from receiver.archive.stores.archive_url import open_store
from receiver.errors import MissingObjectError

KEY = "2026/07/01/01JZ2Q7V3N0000000000000000/0.png"
DATA = bytes(range(256)) * 2000


@pytest.fixture(params=["directory", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Open a store with one object."""
    url = (
        f"file://{tmp_path}/archive"
        if request.param == "directory"
        else f"s3://{request.getfixturevalue('bucket')}/some/prefix"
    )
    path = tmp_path / "fetched"
    path.write_bytes(DATA)
    with closing(open_store(url)) as store:
        store.put(KEY, path, sha256=hashlib.sha256(DATA).hexdigest(), content_type="image/png")
        yield store


@pytest.mark.parametrize("start", [0, 1, 255_000, len(DATA) - 1])
def test_an_object_can_be_read_from_any_byte_on(store: Store, start: int) -> None:
    with store.open(KEY, start) as stream:
        assert stream.read() == DATA[start:]


def test_a_part_of_nothing_is_missing_too(store: Store) -> None:
    with pytest.raises(MissingObjectError):
        store.open("2026/none/0.png", 5)


def test_a_link_to_what_is_no_key_is_never_signed(store: Store) -> None:
    with pytest.raises(ValueError, match="not a key"):
        store.link("../etc/passwd", 60, name="x")


def test_a_directory_has_no_links(tmp_path: Path) -> None:
    with closing(open_store(f"file://{tmp_path}/archive")) as store:
        assert store.link(KEY, 60, name="x") is None


@pytest.mark.parametrize("store", ["bucket"], indirect=True)
def test_a_link_gives_the_bytes_to_who_has_no_credentials_and_saves_them_under_a_name(
    store: Store,
) -> None:
    link = store.link(KEY, 60, name="a-fox.png")
    assert link is not None
    answer = requests.get(link, timeout=10)
    assert (answer.status_code, answer.content) == (200, DATA)
    assert answer.headers["Content-Disposition"] == 'attachment; filename="a-fox.png"'
    assert requests.get(link.partition("?")[0], timeout=10).status_code == 403, (
        "it is the signature that opens"
    )
    assert requests.get(link.replace("0.png", "1.png"), timeout=10).status_code == 403, (
        "and this object only"
    )
    assert "testsecret" not in link
