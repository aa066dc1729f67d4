"""A wrong setting, a missing right or a missing bucket is named with its remedy."""

from contextlib import closing

import pytest
from seaweed import S3Server

from receiver.archive.stores.s3 import S3Store
from receiver.errors import StoreError

KEY = "2026/07/01/REF/0.png"


def test_a_forbidden_write_names_the_rights_to_give(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.reader[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.reader[1])
    remedy = f"bucket '{bucket}' .*allow these credentials s3:PutObject"
    with closing(S3Store(bucket, "prefix")) as store, pytest.raises(StoreError, match=remedy):
        store.check()


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("AWS_ACCESS_KEY_ID", "nobody", "correct AWS_ACCESS_KEY_ID"),
        ("AWS_SECRET_ACCESS_KEY", "planted-secret", "correct AWS_SECRET_ACCESS_KEY"),
        (
            "AWS_SECRET_ACCESS_KEY",
            None,
            "set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY|there are no credentials",
        ),
        (
            "AWS_ENDPOINT_URL_S3",
            "http://user:planted-secret@127.0.0.1:1",
            "correct AWS_ENDPOINT_URL_S3",
        ),
        ("AWS_ENDPOINT_URL_S3", "planted-secret", "AWS_ENDPOINT_URL_S3 is not a URL"),
        ("AWS_PROFILE", "nobody", "nobody"),
    ],
)
def test_a_wrong_setting_is_named(
    bucket: str, monkeypatch: pytest.MonkeyPatch, variable: str, value: str | None, remedy: str
) -> None:
    if value is None:
        monkeypatch.delenv(variable)
    else:
        monkeypatch.setenv(variable, value)
    with closing(S3Store(bucket)) as store, pytest.raises(StoreError, match=remedy) as failure:
        store.check()
    assert "planted-secret" not in str(failure.value)


def test_a_missing_bucket_is_named(bucket: str) -> None:
    with closing(S3Store(f"{bucket}-not")) as store:
        with pytest.raises(
            StoreError,
            match=f"bucket '{bucket}-not' at http.*: the bucket does not exist there: create it",
        ):
            store.check()
        with pytest.raises(StoreError, match="the bucket does not exist"):
            store.open(KEY)
