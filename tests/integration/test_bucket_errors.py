"""What a bucket's errors say: the server's own message, and what to do. And limits of time."""

import socket
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from io import BytesIO

import pytest
from fake_s3 import FakeS3
from faultproxy import FaultProxy, ProxyResponse, s3_error
from outside_network import OK, Script, ScriptedServer, drip
from seaweed import S3Server

from receiver.archive.stores.s3 import S3Store
from receiver.archive.stores.s3_bucket import Bucket
from receiver.archive.stores.s3_options import DEFAULT, S3Options
from receiver.archive.stores.s3_put import Upload
from receiver.archive.stores.s3_transport import Limits
from receiver.errors import StoreError

KEY = "2026/07/01/REF/0.png"
_BYTES = b"bytes"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in S3Server("http://unused", client=None).environment().items():  # type: ignore[arg-type] # no client is needed
        monkeypatch.setenv(name, value)


_REGION = "<Region>eu-west-1</Region>"
_NOT_ALLOWED = "User: arn:aws:iam::1:user/x is not authorized to perform: "


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        (s3_error(403, "AccessDenied", _NOT_ALLOWED + "s3:PutObject"), "allow these credentials"),
        (s3_error(403, "AccessDenied", _NOT_ALLOWED + "kms:GenerateDataKey"), "S3_SSE_KMS_KEY_ID"),
        (s3_error(400, "KMS.NotFoundException", "Key 'x' does not exist"), "S3_SSE_KMS_KEY_ID"),
        (
            s3_error(403, "SignatureDoesNotMatch", "Check your key and signing method."),
            "AWS_SECRET_ACCESS_KEY; or a proxy on the way changes Host or path",
        ),
        (s3_error(403, "InvalidAccessKeyId", "It does not exist"), "AWS_ACCESS_KEY_ID"),
        (
            replace(
                s3_error(301, "PermanentRedirect", "Use the specified endpoint."),
                headers={"x-amz-bucket-region": "eu-west-1"},
            ),
            "set AWS_DEFAULT_REGION=eu-west-1",
        ),
        (
            s3_error(400, "AuthorizationHeaderMalformed", "the region is wrong", _REGION),
            "set AWS_DEFAULT_REGION=eu-west-1",
        ),
        (
            s3_error(400, "AuthorizationHeaderMalformed", "expecting 'us-west-2'"),
            "set AWS_DEFAULT_REGION=us-west-2",
        ),
        (
            s3_error(403, "SecondLevelDomainForbidden", "Please use virtual hosted style."),
            "set S3_ADDRESSING_STYLE=virtual",
        ),
        (s3_error(400, "InvalidStorageClass", "not valid"), "correct S3_STORAGE_CLASS"),
        (s3_error(400, "ExpiredToken", "The provided token has expired."), "renew them"),
        (s3_error(403, "RequestTimeTooSkewed", "Difference is too large"), "clock"),
        (s3_error(507, "XMinioStorageFull", "Storage backend has reached its limit"), ""),
    ],
)
def test_the_servers_own_message_is_shown_with_the_remedy(
    fake_bucket: tuple[FakeS3, FaultProxy], answer: ProxyResponse, remedy: str
) -> None:
    def rule(request: object, _: object) -> ProxyResponse:
        # The answer to a HEAD has no body.
        head = getattr(request, "method", "") == "HEAD"
        return replace(answer, body=b"") if head else answer

    fake_bucket[1].rule = rule
    message = answer.body.decode().partition("<Message>")[2].partition("<")[0]
    with closing(S3Store("pictures", "home")) as store:
        for use in (store.check, lambda: list(store.keys()), lambda: store.open(KEY)):
            with pytest.raises(StoreError) as failure:
                use()
            assert message in str(failure.value)
            assert remedy in str(failure.value)


def test_a_long_message_is_cut_and_holds_no_password(
    fake_bucket: tuple[FakeS3, FaultProxy],
) -> None:
    said = "see\nhttp://user:planted-secret@host " + "x" * 9000
    fake_bucket[1].rule = lambda _, __: s3_error(400, "Odd", said)
    with closing(S3Store("pictures")) as store, pytest.raises(StoreError) as failure:
        store.check()
    assert "see http://host x" in str(failure.value)
    assert "planted-secret" not in str(failure.value)
    assert len(str(failure.value)) < 600


def test_a_server_that_refuses_the_encryption_is_named(
    fake_bucket: tuple[FakeS3, FaultProxy],
) -> None:
    fake_bucket[1].rule = lambda request, forward: (
        s3_error(501, "NotImplemented", "A header you provided implies functionality")
        if "x-amz-server-side-encryption" in request.headers
        else forward(request)
    )
    with (
        closing(S3Store("pictures", options=S3Options(sse="AES256"))) as store,
        pytest.raises(StoreError, match=r"implies functionality.*may not know what S3_SSE"),
    ):
        store.check()


def test_an_endpoint_with_the_bucket_is_rejected_before_anything_is_stored(
    fake_bucket: tuple[FakeS3, FaultProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"{fake_bucket[1].url}/pictures")
    with (
        closing(S3Store("pictures")) as store,
        pytest.raises(StoreError, match=f"write AWS_ENDPOINT_URL_S3={fake_bucket[1].url}$"),
    ):
        store.check()
    assert fake_bucket[1].seen == []


def test_a_host_called_like_the_bucket_is_mentioned_when_it_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://pictures.invalid.test")
    said = "no server answers.*; if it is not meant so: .*=https://invalid.test"
    with closing(S3Store("pictures")) as store, pytest.raises(StoreError, match=said):
        store.check()


# Time


def read(bucket: Bucket) -> None:
    bucket.call(lambda client: client.get_object(Bucket="pictures", Key=KEY))["Body"].read()


def put(bucket: Bucket) -> None:
    bucket.put(Upload(KEY, _BYTES, "00" * 32, "text/plain"), "none")


def take_then(script: Script) -> Script:
    """Script: take the body of a put, too."""

    def play(connection: socket.socket) -> None:
        connection.recv(len(_BYTES))
        script(connection)

    return play


def remove(bucket: Bucket) -> None:
    bucket.call(lambda client: client.delete_object(Bucket="pictures", Key=KEY))


def list_all(bucket: Bucket) -> None:
    bucket.call(lambda client: client.list_objects_v2(Bucket="pictures"))


_SLOW_BODY = OK + b"Content-Length: 999999\r\n\r\n"


@pytest.mark.parametrize("limits", [Limits(total=0.3), Limits(rate=1_000_000, rate_after=0.3)])
@pytest.mark.parametrize(
    ("operation", "script"),
    [
        (read, drip(_SLOW_BODY, 0.02)),
        (read, drip(b"HTTP/1.1 200 ", 0.02)),
        (list_all, drip(_SLOW_BODY, 0.02)),
        (lambda bucket: bucket.exists(KEY), drip(OK + b"X: ", 0.02)),
        (put, take_then(drip(b"HTTP/1.1 2", 0.02))),
        (remove, drip(OK + b"X: ", 0.02)),
    ],
)
def test_a_slow_server_does_not_hold_a_thread(
    monkeypatch: pytest.MonkeyPatch,
    limits: Limits,
    operation: Callable[[Bucket], None],
    script: Script,
) -> None:
    server = ScriptedServer((script,))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.port}")
    try:
        with (
            closing(Bucket("pictures", DEFAULT, limits)) as bucket,
            pytest.raises(StoreError, match="no answer in time, or the connection is too slow"),
            bucket.store_errors("use"),
        ):
            operation(bucket)
    finally:
        server.close()


def test_a_server_that_closes_within_the_answer_to_expect_does_not_hold_a_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began = time.monotonic()
    server = ScriptedServer((lambda one: one.sendall(b"HTTP/1.1 100 Continue\r\n"),))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.port}")
    try:
        with (
            closing(Bucket("pictures", DEFAULT, Limits(total=5))) as bucket,
            pytest.raises(StoreError, match="the connection was cut"),
            bucket.store_errors("use"),
        ):
            bucket.put(Upload(KEY, BytesIO(_BYTES), "00" * 32, "text/plain"), "none")
        assert b"Expect: 100-continue" in server.requests[0]
        assert time.monotonic() - began < 10, "it asked for lines until the limit"
    finally:
        server.close()
