"""Listing an archive: sorted, in pages, and never a part of it without an error."""

import os
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from archives import put, write_files
from faultproxy import FaultProxy, Forward, ProxyRequest, ProxyResponse, Rule, s3_error
from seaweed import S3Server

from receiver.archive.stores import Store
from receiver.archive.stores.directory import DirectoryStore
from receiver.archive.stores.s3 import S3Store
from receiver.archive.stores.s3_transport import Limits
from receiver.errors import StoreError

KEYS = [
    "2026/07/01/A/0.png",
    "2026/07/01/A/1.png",
    "2026/07/01/A/10.png",
    "2026/07/01/A/job.json",
    "2026/07/02/B/0.png",
    "2026/08/01/C/0.png",
]


def in_pages_of_three(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    """Have small pages; in the first one a place is taken by the marker."""
    return forward(
        replace(request, path=f"{request.path}&max-keys=3")
        if "list-type=2" in request.path
        else request
    )


def names(store: Store, prefix: str = "", after: str = "") -> list[str]:
    return [name for name, _ in store.keys(prefix, after)]


def test_an_archive_without_objects_has_no_names(store: Store) -> None:
    assert names(store) == []
    assert names(store, "2026") == []


def test_every_object_is_named_once_in_order_with_its_size_and_nothing_hidden_is(
    store: Store,
) -> None:
    for number, key in enumerate(reversed(KEYS)):
        put(store, key, bytes(number))
    assert list(store.keys()) == [(key, len(KEYS) - 1 - number) for number, key in enumerate(KEYS)]


def test_a_folder_is_listed_alone_and_is_no_beginning_of_a_name(store: Store) -> None:
    for key in [*KEYS, "2026/07/01/AB/0.png"]:
        put(store, key, b"x")
    assert names(store, "2026/07/01/A") == KEYS[:4]
    assert names(store, "2026/07") == [*KEYS[:4], "2026/07/01/AB/0.png", KEYS[4]]
    assert names(store, "2026/07/01/A/0.png") == []
    with pytest.raises(ValueError, match="not a key"):
        names(store, "../2026")


def test_a_listing_goes_on_behind_any_name(store: Store) -> None:
    for key in KEYS:
        put(store, key, b"x")
    for number, key in enumerate(KEYS):
        assert names(store, after=key) == KEYS[number + 1 :]
    assert names(store, after="2026/07/01/A/5") == KEYS[3:], "between two names"
    assert names(store, after="2027") == []
    assert names(store, "2026/07", after=KEYS[3]) == [KEYS[4]]


def test_a_directory_is_walked_in_the_order_of_s3_where_a_slash_is_a_character(
    tmp_path: Path,
) -> None:
    found = ["a-b", "a.b", "a/b", "a0", "ab/c"]
    write_files(tmp_path, dict.fromkeys(found, b"x"))
    assert names(DirectoryStore(tmp_path)) == found == sorted(found)
    assert names(DirectoryStore(tmp_path), after="a.b") == found[2:]


def test_what_strangers_put_into_a_directory_is_named_unless_it_is_hidden_or_no_file(
    tmp_path: Path,
) -> None:
    write_files(
        tmp_path, {"a b ä\n.png": b"x", ".hidden/a": b"x", "2026/.hidden": b"x", "2026/a": b"x"}
    )
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    assert names(DirectoryStore(tmp_path)) == ["2026/a", "a b ä\n.png"]


def test_what_strangers_put_into_a_bucket_is_named_unless_it_is_hidden_or_a_folder(
    s3_server: S3Server, bucket: str
) -> None:
    for key in ("p/2026/a b ä.png", "p/2026/.hidden", "p/.hidden/a", "p2/a"):
        s3_server.client.put_object(Bucket=bucket, Key=key, Body=b"x")
    with closing(S3Store(bucket, "p")) as store:
        assert names(store) == ["2026/a b ä.png"]


def test_a_listing_of_many_pages_is_whole_and_asks_for_a_page_when_it_needs_it(
    bucket: str, proxy: FaultProxy
) -> None:
    proxy.rule = in_pages_of_three
    with closing(S3Store(bucket, "p")) as store:
        for key in KEYS:
            put(store, key, b"x")
        assert names(store) == KEYS
        assert names(store, after=KEYS[1]) == KEYS[2:]
        proxy.seen.clear()
        assert [name for name, _ in islice(store.keys(), 2)] == KEYS[:2]
        assert len(proxy.seen) == 1


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (
            lambda _, __: s3_error(403, "AccessDenied"),
            "cannot list the bucket .*allow these credentials .*s3:ListBucket",
        ),
        (lambda _, __: s3_error(404, "NoSuchBucket"), "create it or correct ARCHIVE_URL"),
        (lambda _, __: s3_error(503, "SlowDown"), "overloaded"),
        (lambda _, __: None, "cannot list the bucket"),
    ],
)
def test_a_listing_that_breaks_off_after_some_pages_is_an_error_and_no_end(
    bucket: str, proxy: FaultProxy, rule: Rule, said: str
) -> None:
    proxy.rule = in_pages_of_three
    with closing(S3Store(bucket, "p", limits=Limits(1, 2))) as store:
        for key in KEYS:
            put(store, key, b"x")
        listing = store.keys()
        assert [next(listing)[0], next(listing)[0]] == KEYS[:2]
        proxy.rule = rule
        with pytest.raises(StoreError, match=said):
            next(listing)


def test_an_archive_that_is_not_there_has_no_listing(tmp_path: Path, bucket: str) -> None:
    with pytest.raises(
        StoreError,
        match=f"no archive directory {tmp_path}/archive: mount it, or correct ARCHIVE_URL",
    ):
        names(DirectoryStore(tmp_path / "archive"))
    with (
        closing(S3Store(f"{bucket}-not")) as store,
        pytest.raises(StoreError, match="the bucket does not exist there"),
    ):
        names(store)
