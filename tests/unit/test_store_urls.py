"""Reading ARCHIVE_URL: which store it names, and the error for every mistake."""

from pathlib import Path

import pytest

from receiver.archive.stores.archive_url import archive_name, open_store

KEY = "2026/07/01/REF/0.png"


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("file:///srv/archive", f"/srv/archive/{KEY}"),
        ("file:///srv/archive/", f"/srv/archive/{KEY}"),
        ("file:///srv/my%20archive", f"/srv/my archive/{KEY}"),
        ("s3://pictures", f"s3://pictures/{KEY}"),
        ("s3://pictures/", f"s3://pictures/{KEY}"),
        ("s3://pictures.example.org/some/prefix/", f"s3://pictures.example.org/some/prefix/{KEY}"),
    ],
)
def test_a_url_becomes_a_store(url: str, place: str) -> None:
    assert open_store(url).locate(KEY) == place


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("", "write file:///path or s3://bucket/prefix"),
        ("/srv/archive", "write file:///path"),
        ("https://pictures.s3.amazonaws.com/", "write file:///path or s3://bucket/prefix"),
        ("file:/srv/archive", "write file:///path"),
        ("file://srv/archive", "three slashes and the absolute path"),
        ("file:///", "the absolute path of a directory"),
        ("file:///srv/%00", "the absolute path of a directory"),
        ("s3://", "needs a bucket of 3 to 63"),
        ("s3://no", "needs a bucket"),
        ("s3://pictures:9000/prefix", "needs a bucket"),
        ("s3://pictures/a/../b", "needs a prefix"),
        ("s3://pictures/a b", "needs a prefix"),
        ("s3://pictures/prefix?region=x", "needs a prefix"),
        ("s3://key:planted-secret@pictures", "give them in AWS_ACCESS_KEY_ID"),
        ("https://key:planted-secret@host", "write file:///path"),
    ],
)
def test_a_malformed_url_is_reported_with_its_remedy_and_no_secret(url: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=rf"^ARCHIVE_URL .*{remedy}") as failure:
        open_store(url)
    assert "planted-secret" not in str(failure.value)


@pytest.mark.parametrize(
    ("url", "home", "endpoint", "name"),
    [
        ("file:///srv/data/archive", "/srv/data", "", "file:archive"),
        ("file:///srv/my%20pictures/", "/srv/data", "", "file:///srv/my pictures"),
        ("file:///srv/data/archive", None, "", "file:///srv/data/archive"),
        ("s3://bucket/a/b/", None, "", "s3://bucket/a/b"),
        ("s3://bucket", None, "", "s3://bucket/"),
        ("s3://bucket/a", None, "https://s3.eu-west-1.amazonaws.com", "s3://bucket/a"),
        ("s3://bucket/a", None, "http://MinIO:9000/", "s3://bucket/a at minio:9000"),
    ],
)
def test_an_archive_has_one_name_on_every_machine(
    url: str, home: str | None, endpoint: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    assert archive_name(url, Path(home) if home else None) == name


def test_an_archive_is_not_compared_while_boto3s_files_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "missing")
    assert archive_name("s3://bucket/a", None) == ""
