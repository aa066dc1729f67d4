"""Puts that repeat an earlier put's request: the server sees what boto3 would have sent."""

import hashlib
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError
from fake_s3 import FakeS3
from faultproxy import FaultProxy, Forward, ProxyRequest, ProxyResponse, Rule, honest, s3_error
from s3_dialects import accepts_only, ignores_hashes, refuses_hashes, requires_an_md5
from seaweed import S3Server

from receiver.archive.stores import s3_put
from receiver.archive.stores.s3 import S3Store
from receiver.archive.stores.s3_bucket import Bucket
from receiver.archive.stores.s3_options import S3Options
from receiver.archive.stores.s3_put import Upload
from receiver.archive.stores.s3_transport import LIMITS
from receiver.errors import ObjectDiffersError, StoreError

BUILT_BY_BOTO3 = "amz-sdk-invocation-id"
# What differs between two requests of boto3 itself.
_OF_THE_MOMENT = {BUILT_BY_BOTO3, "amz-sdk-request", "authorization", "x-amz-date", "host"}


class Recorder:
    """A rule that keeps all puts of objects, and passes them to another rule."""

    def __init__(self, rule: Rule = honest) -> None:
        self.puts: list[ProxyRequest] = []
        self.rule = rule

    def __call__(self, request: ProxyRequest, forward: Forward) -> ProxyResponse | None:
        if request.method == "PUT" and not request.path.endswith(".receiver"):
            self.puts.append(request)
        return self.rule(request, forward)

    def built_by_boto3(self) -> list[bool]:
        return [BUILT_BY_BOTO3 in each.headers for each in self.puts]


@pytest.fixture
def seen(fake_bucket: tuple[FakeS3, FaultProxy]) -> Recorder:
    fake_bucket[1].rule = recorder = Recorder()
    return recorder


@pytest.fixture
def store(fake_bucket: tuple[FakeS3, FaultProxy]) -> Iterator[S3Store]:  # noqa: ARG001 - its address is in the environment
    with closing(S3Store("pictures", "home")) as store:
        yield store


def put(
    store: S3Store, folder: Path, number: int, data: bytes = b"picture", meant: bytes = b""
) -> str:
    """Put a picture and return its key; ``meant`` are the bytes that were hashed."""
    path, key = folder / "fetched", f"2026/07/01/REF/{number}.png"
    path.write_bytes(data)
    digest = hashlib.sha256(meant or data).hexdigest()
    store.put(key, path, sha256=digest, content_type="image/png")
    return key


@pytest.mark.parametrize(
    "options",
    [
        S3Options(),
        S3Options(sse="aws:kms", sse_kms_key_id="key-1", storage_class="STANDARD_IA"),
        S3Options(checksums="when_supported"),
        S3Options(addressing_style="path"),
    ],
)
@pytest.mark.parametrize("token", ["", "of-a-session"])
def test_a_repeated_put_says_what_boto3_says(
    fake_bucket: tuple[FakeS3, FaultProxy],
    seen: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    options: S3Options,
    token: str,
) -> None:
    if token:
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)
    with closing(S3Store("pictures", "a b/ä+~'!", options)) as store:
        for number, data in enumerate((b"one", b"two and more")):
            put(store, tmp_path, number, data)
    with closing(S3Store("pictures", "a b/ä+~'!", options)) as store:
        for number, data in ((2, b"first"), (1, b"two and more")):
            fake_bucket[0].versions.pop(f"a b/ä+~'!/2026/07/01/REF/{number}.png", None)
            put(store, tmp_path, number, data)
    assert seen.built_by_boto3() == [True, False, True, False]
    repeated, other = seen.puts[1], seen.puts[3]
    assert repeated.path == other.path
    assert repeated.body == other.body == b"two and more"
    by_boto3 = {key for key in seen.puts[0].headers if key not in _OF_THE_MOMENT}
    assert {key for key in repeated.headers if key not in _OF_THE_MOMENT} == by_boto3
    same = by_boto3 - {
        "content-length",
        "x-amz-content-sha256",
        "x-amz-meta-sha256",
        "x-amz-checksum-sha256",
    }
    assert {key: repeated.headers[key] for key in same} == {
        key: seen.puts[0].headers[key] for key in same
    }
    digest = hashlib.sha256(b"two and more")
    assert repeated.headers["x-amz-content-sha256"] == digest.hexdigest()
    assert repeated.headers["x-amz-meta-sha256"] == digest.hexdigest()
    assert repeated.headers["x-amz-checksum-sha256"] == b64encode(digest.digest()).decode()
    assert repeated.headers.get("x-amz-security-token", "") == token


def test_a_real_server_accepts_its_signature_and_keeps_all_that_it_says(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    with closing(S3Store(bucket, "a b/ä+~'!(1)")) as store:
        for number in range(3):
            key = put(store, tmp_path, number, b"picture %d" % number)
            found = s3_server.client.get_object(Bucket=bucket, Key=f"a b/ä+~'!(1)/{key}")
            body = b"picture %d" % number
            assert found["Body"].read() == body
            assert found["ContentType"] == "image/png"
            assert found["Metadata"] == {"sha256": hashlib.sha256(body).hexdigest()}
        assert store.create("2026/07/01/REF/job.json", b"{}", content_type="application/json")
        assert not store.create("2026/07/01/REF/job.json", b"1", content_type="application/json")
        store.replace("2026/07/01/REF/job.json", b"{1}", content_type="application/json")
        with store.open("2026/07/01/REF/job.json") as stored:
            assert stored.read() == b"{1}"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (s3_error(503, "SlowDown"), "overloaded"),
        (s3_error(500, "InternalError"), "InternalError"),
        (s3_error(403, "AccessDenied"), "s3:PutObject"),
        (s3_error(400, "AuthorizationHeaderMalformed", more="<Region>eu-1</Region>"), "eu-1"),
        (s3_error(200, "InternalError"), "InternalError"),
        (
            ProxyResponse(200, {"content-type": "text/html"}, b"<html>please<br>sign in"),
            "Internal Server Error",
        ),
        (None, "cut"),
    ],
)
def test_an_error_is_the_one_of_boto3_and_later_puts_are_repeated_again(
    seen: Recorder, store: S3Store, tmp_path: Path, error: ProxyResponse | None, said: str
) -> None:
    put(store, tmp_path, 0)
    put(store, tmp_path, 1)
    seen.rule = lambda request, forward: error if request.method == "PUT" else forward(request)
    for _ in range(2):
        with pytest.raises(StoreError, match=said):
            put(store, tmp_path, 2)
    seen.rule = honest
    assert [store.locate(put(store, tmp_path, number))[-5:] for number in (2, 3, 4)]
    assert seen.built_by_boto3()[:2] == [True, False]
    assert not any(seen.built_by_boto3()[-2:])


def test_a_put_that_is_answered_with_an_error_is_repeated_by_boto3(
    seen: Recorder, store: S3Store, tmp_path: Path
) -> None:
    def moved(request: ProxyRequest, forward: Forward) -> ProxyResponse:
        if request.method == "PUT" and BUILT_BY_BOTO3 not in request.headers:
            return s3_error(307, "TemporaryRedirect")
        return forward(request)

    put(store, tmp_path, 0)
    seen.rule = moved
    key = put(store, tmp_path, 1, b"picture of many bytes")
    with store.open(key) as stored:
        assert stored.read() == b"picture of many bytes"
    assert seen.built_by_boto3() == [True, False, True]


class _Refusing(BaseHTTPRequestHandler):
    """Takes the first file, and refuses the next ones before their bytes."""

    protocol_version = "HTTP/1.1"
    heads: ClassVar[list[str]] = []

    def handle_expect_100(self) -> bool:
        self.heads.append(self.requestline)
        return super().handle_expect_100() if len(self.heads) == 1 else self._answer(403)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200)

    def _answer(self, status: int) -> bool:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return False


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.usefixtures("fake_bucket")  # its credentials
def test_the_bytes_of_a_refused_file_are_not_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "picture").write_bytes(b"picture")
    with _serving(_Refusing) as port, (tmp_path / "picture").open("rb") as body:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
        upload = Upload("a.png", body, hashlib.sha256(b"picture").hexdigest(), "image/png")
        with closing(Bucket("pictures", S3Options(), LIMITS)) as bucket:
            bucket.put(upload, "sha256")
            with pytest.raises(ClientError, match="403"):
                bucket.put(upload, "sha256")
    assert _Refusing.heads == 3 * ["PUT /pictures/a.png HTTP/1.1"]


def test_a_server_that_says_created_gets_each_object_once(
    seen: Recorder, store: S3Store, tmp_path: Path
) -> None:
    put(store, tmp_path, 0)
    seen.rule = lambda request, forward: replace(forward(request), status=201)
    put(store, tmp_path, 1)
    put(store, tmp_path, 2)
    assert seen.built_by_boto3() == [True, False, False]


def test_with_a_server_that_answers_puts_with_a_body_boto3_sends_all_later_ones(
    seen: Recorder, store: S3Store, tmp_path: Path
) -> None:
    def talks(request: ProxyRequest, forward: Forward) -> ProxyResponse:
        answer = forward(request)
        return replace(answer, body=b"<Stored/>") if answer.status == 200 else answer

    put(store, tmp_path, 0)
    seen.rule = lambda request, forward: (
        talks(request, forward) if request.method == "PUT" else forward(request)
    )
    for number in range(1, 25):
        put(store, tmp_path, number)
    # boto3's second put finds the key taken, and its next one is a model again.
    assert seen.built_by_boto3() == [True, *[False, True, True] * 10, *[True] * 4]


def test_a_repeated_put_keeps_the_first_bytes(
    seen: Recorder, store: S3Store, tmp_path: Path
) -> None:
    put(store, tmp_path, 0)
    put(store, tmp_path, 1)
    put(store, tmp_path, 1)
    with pytest.raises(ObjectDiffersError, match="already holds other bytes"):
        put(store, tmp_path, 1, b"other bytes")
    assert seen.built_by_boto3()[:3] == [True, False, False]


def test_a_file_that_changed_after_it_was_hashed_is_not_stored(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    with closing(S3Store(bucket)) as store:
        put(store, tmp_path, 0)
        with pytest.raises(StoreError, match=r"\(400 "):
            put(store, tmp_path, 1, b"damaged", meant=b"picture")
        put(store, tmp_path, 1)
    assert s3_server.client.list_objects_v2(Bucket=bucket, Prefix="2026")["KeyCount"] == 2


@pytest.mark.parametrize("rule", [refuses_hashes, requires_an_md5])
def test_where_a_put_has_no_sha256_boto3_builds_each_request(
    fake_bucket: tuple[FakeS3, FaultProxy],
    seen: Recorder,
    store: S3Store,
    tmp_path: Path,
    rule: Rule,
) -> None:
    seen.rule = rule
    for number in range(3):
        put(store, tmp_path, number)
    assert all(seen.built_by_boto3())
    assert len(fake_bucket[0].versions) == 4


def test_a_server_that_ignores_hashes_is_read_after_a_repeated_put(
    fake_bucket: tuple[FakeS3, FaultProxy], seen: Recorder, store: S3Store, tmp_path: Path
) -> None:
    seen.rule = ignores_hashes
    for number in range(2):
        key = put(store, tmp_path, number)
        assert fake_bucket[1].seen[-1] == ("GET", f"/pictures/home/{key}")
    assert seen.built_by_boto3() == [True, False]


def test_renewed_credentials_sign_the_next_put(
    seen: Recorder, store: S3Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen.rule = accepts_only("testkey", "ExpiredToken")
    put(store, tmp_path, 0)
    put(store, tmp_path, 1)
    seen.rule = accepts_only("second", "ExpiredToken")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "second")
    put(store, tmp_path, 2)
    put(store, tmp_path, 3)
    assert "Credential=second/" in seen.puts[-1].headers["authorization"]
    assert seen.built_by_boto3()[-2:] == [True, False]


_SIGNED = "AWS4-HMAC-SHA256 Credential=key/id/20261127/eu-1/s3/aws4_request, SignedHeaders=a"


@pytest.mark.parametrize(
    ("url", "changes", "base", "signs_body"),
    [
        ("https://pictures.s3.eu-1.amazonaws.com/home/a.png", {}, "/home/", False),
        ("https://s3.example.org/pictures/home/a.png", {}, "/pictures/home/", False),
        (
            "http://127.0.0.1:9000/pictures/home/a.png",
            {"X-Amz-Content-SHA256": "00"},
            "/pictures/home/",
            True,
        ),
        ("https://s3.example.org/pictures/home/b.png", {}, None, False),
        ("https://s3.example.org/pictures/home/a.png?x-id=PutObject", {}, None, False),
        ("https://s3.example.org/pictures/home/a.png", {"Authorization": ""}, None, False),
        (
            "https://s3.example.org/pictures/home/a.png",
            {"Authorization": _SIGNED.replace("/s3/", "/s3express/")},
            None,
            False,
        ),
        (
            "https://s3.example.org/pictures/home/a.png",
            {"Authorization": _SIGNED.replace("AWS4-HMAC", "AWS4-ECDSA-P256")},
            None,
            False,
        ),
        (
            "https://s3.example.org/pictures/home/a.png",
            {"x-amz-checksum-sha256": None},
            None,
            False,
        ),
    ],
)
def test_only_an_ordinary_put_is_a_model(
    url: str, changes: dict[str, str | None], base: str | None, *, signs_body: bool
) -> None:
    headers = {
        "Authorization": _SIGNED,
        "Content-Type": "image/png",
        "Expect": "100-continue",
        "X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD",
        "User-Agent": "test",
        "x-amz-checksum-sha256": "00",
        "x-amz-storage-class": "STANDARD_IA",
    } | changes
    sent = AWSRequest(
        "PUT", url, headers={name: value for name, value in headers.items() if value is not None}
    ).prepare()
    model = s3_put._model(sent, "a.png")
    assert (model and model.base.partition("//")[2].partition("/")[2]) == (base and base[1:])
    if model:
        assert model.region == "eu-1"
        assert model.signs_body == signs_body
        assert model.headers == {"User-Agent": "test", "x-amz-storage-class": "STANDARD_IA"}
