"""An endpoint URL that contains the bucket is noticed, and the correct value is named."""

import pytest

from receiver.archive.stores.s3_endpoint import bucket_in_endpoint


@pytest.mark.parametrize(
    ("endpoint", "correct"),
    [
        ("https://pictures.s3.example", "https://s3.example"),
        ("https://pictures.s3.eu-west-1.amazonaws.com/", "https://s3.eu-west-1.amazonaws.com"),
        ("https://pictures.s3-accelerate.amazonaws.com", "https://s3-accelerate.amazonaws.com"),
        ("https://s3.example:9000/pictures", "https://s3.example:9000"),
        ("https://s3.example/pictures/", "https://s3.example"),
        ("https://s3.example/pictures/home", "https://s3.example"),
        ("http://127.0.0.1:9000/pictures", "http://127.0.0.1:9000"),
        ("http://user:planted-secret@host:9000/pictures", "http://host:9000"),
        ("http://[::1]:9000/pictures", "http://[::1]:9000"),
        (
            "https://abc123.r2.cloudflarestorage.com/pictures",
            "https://abc123.r2.cloudflarestorage.com",
        ),
        (
            "https://pictures.abc123.r2.cloudflarestorage.com",
            "https://abc123.r2.cloudflarestorage.com",
        ),
        ("https://pictures.oss-cn-hangzhou.aliyuncs.com", "https://oss-cn-hangzhou.aliyuncs.com"),
        ("https://PICTURES.nyc3.digitaloceanspaces.com", "https://nyc3.digitaloceanspaces.com"),
    ],
)
def test_a_bucket_in_the_endpoint_is_certain(endpoint: str, correct: str) -> None:
    found = bucket_in_endpoint(endpoint, "pictures")
    assert found
    assert found.certain
    assert found.remedy.endswith(f": write AWS_ENDPOINT_URL_S3={correct}")
    assert "planted-secret" not in found.remedy


def test_a_host_that_may_be_called_like_the_bucket_is_only_a_suspicion() -> None:
    found = bucket_in_endpoint("https://pictures.example.org:9000", "pictures")
    assert found
    assert not found.certain


@pytest.mark.parametrize(
    ("endpoint", "bucket"),
    [
        ("https://s3.example", "pictures"),
        ("https://s3.amazonaws.com", "s3"),
        ("https://s3.eu-west-1.amazonaws.com", "s3"),
        ("https://storage.googleapis.com", "storage"),
        ("https://minio:9000", "minio"),
        ("http://127.0.0.1:9000", "127"),
        ("https://s3.example/gateway", "pictures"),
        ("https://x.supabase.co/storage/v1/s3", "s3"),
        ("https://pictures-old.s3.example", "pictures"),
        ("https://pictures.local", "pictures"),
    ],
)
def test_other_endpoints_are_left_alone(endpoint: str, bucket: str) -> None:
    assert bucket_in_endpoint(endpoint, bucket) is None
