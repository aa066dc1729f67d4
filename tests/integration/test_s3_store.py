"""Faults that only a bucket has: wrong settings, differences between S3 servers, broken servers."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
from faultproxy import (
    FaultProxy,
    Forward,
    ProxyRequest,
    ProxyResponse,
    Rule,
    honest,
    s3_error,
    without,
)
from seaweed import S3Server

from receiver.archive.stores import AddressingStyle, Checksums, Verify
from receiver.archive.stores.s3 import MARKER, S3Store
from receiver.errors import MissingObjectError, ObjectDiffersError, StoreError

KEY = "2026/07/01/REF/0.png"


@pytest.fixture
def store(bucket: str, proxy: FaultProxy) -> Iterator[S3Store]:  # noqa: ARG001 - the order matters: the proxy's address goes last
    """Open the bucket through the proxy.

    The timeouts are generous: on a busy machine the first object of a new bucket takes longer than
    half a second.
    """
    with closing(S3Store(bucket, "prefix", timeouts=(20, 20))) as store:
        yield store


@pytest.fixture
def put(tmp_path: Path) -> Callable[[S3Store, bytes], None]:
    """Store some bytes under the one key of these tests."""

    def put(store: S3Store, data: bytes) -> None:
        path = tmp_path / "fetched"
        path.write_bytes(data)
        store.put(KEY, path, sha256=hashlib.sha256(data).hexdigest(), content_type="image/png")

    return put


Put = Callable[[S3Store, bytes], None]


def read(store: S3Store) -> bytes:
    with store.open(KEY) as stream:
        return stream.read()


def refuses_conditions(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    return (
        s3_error(501, "NotImplemented") if "if-none-match" in request.headers else forward(request)
    )


def calls_conditions_an_invalid_argument(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    return (
        s3_error(400, "InvalidArgument") if "if-none-match" in request.headers else forward(request)
    )


def overwrites_in_spite_of_conditions(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    return forward(without(request, "if-none-match"))


def spells_metadata_its_own_way(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    answer = forward(request)
    return replace(
        answer,
        headers={
            name.title() if "meta" in name else name: value
            for name, value in answer.headers.items()
        },
    )


def says_conflict_to_racing_puts(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    answer = forward(request)
    return s3_error(409, "ConditionalRequestConflict") if answer.status == 412 else answer


def ignores_hashes(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    return forward(without(request, "x-amz-checksum-sha256"))


def refuses_hashes(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    return (
        s3_error(501, "NotImplemented")
        if "x-amz-checksum-sha256" in request.headers
        else forward(request)
    )


def is_damaged_on_the_way(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    return forward(
        replace(request, body=request.body[:-1] + b"?") if request.method == "PUT" else request
    )


def spoils_what_it_stores(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    return is_damaged_on_the_way(without(request, "x-amz-checksum-sha256"), forward)


def spoils_and_keeps_no_metadata(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    return spoils_what_it_stores(without(request, "x-amz-meta-sha256"), forward)


def stores_and_cuts(request: ProxyRequest, forward: Forward) -> ProxyResponse | None:
    answer = forward(request)
    return None if request.method == "PUT" else answer


def cuts(request: ProxyRequest, forward: Forward) -> ProxyResponse | None:
    return None if request.method == "PUT" else forward(request)


def cuts_downloads(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    answer = forward(request)
    return replace(answer, body=answer.body[:10]) if request.method == "GET" else answer


DIALECTS = [
    refuses_conditions,
    calls_conditions_an_invalid_argument,
    overwrites_in_spite_of_conditions,
    spells_metadata_its_own_way,
    says_conflict_to_racing_puts,
    ignores_hashes,
    refuses_hashes,
]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_first_bytes_stay_in_every_dialect(
    store: S3Store, proxy: FaultProxy, put: Put, dialect: Rule
) -> None:
    proxy.rule = dialect
    store.check()
    put(store, b"first")
    put(store, b"first")
    with pytest.raises(ObjectDiffersError):
        put(store, b"other")
    assert read(store) == b"first"


@pytest.mark.parametrize("dialect", DIALECTS[:3])
def test_a_server_without_conditional_puts_is_asked_only_once(
    store: S3Store, proxy: FaultProxy, put: Put, dialect: Rule
) -> None:
    proxy.rule = dialect
    put(store, b"picture")
    proxy.seen.clear()
    put(store, b"picture")
    store.replace("2026/07/01/REF/job.json", b"{}", content_type="application/json")
    assert [method for method, _ in proxy.seen] == ["HEAD", "GET", "PUT"]


# Reading back.


@pytest.mark.parametrize(
    ("server", "verify", "requests"),
    [
        (honest, "auto", ["PUT"]),
        (honest, "always", ["PUT", "GET"]),
        (ignores_hashes, "auto", ["PUT", "GET"]),
        (refuses_hashes, "auto", ["PUT", "GET"]),
    ],
)
def test_an_object_is_read_back_unless_the_server_verifies_it(
    bucket: str, proxy: FaultProxy, put: Put, server: Rule, verify: Verify, requests: list[str]
) -> None:
    proxy.rule = server
    with closing(S3Store(bucket, "prefix", verify=verify, timeouts=(20, 20))) as store:
        store.check()
        proxy.seen.clear()
        put(store, b"picture")
        assert [method for method, _ in proxy.seen] == requests
        proxy.seen.clear()
        assert store.create("2026/07/01/REF/job.json", b"{}", content_type="application/json")
        assert [method for method, _ in proxy.seen] == requests
        assert read(store) == b"picture"


def test_many_threads_that_begin_at_once_try_the_server_once(
    store: S3Store, proxy: FaultProxy
) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert not any(pool.map(lambda _: store.reads_back(), range(8)))
    # With the right hash, under a condition, with a wrong hash.
    assert [method for method, _ in proxy.seen] == ["PUT"] * 3


def test_bytes_damaged_on_the_way_are_refused_by_a_server_that_verifies_them(
    store: S3Store, proxy: FaultProxy, put: Put
) -> None:
    store.check()
    proxy.rule = is_damaged_on_the_way
    with pytest.raises(StoreError, match="they were damaged on the way"):
        put(store, b"picture")
    with pytest.raises(MissingObjectError):
        read(store)
    proxy.rule = honest
    put(store, b"picture")
    assert read(store) == b"picture"


@pytest.mark.parametrize(
    ("addressing_style", "checksums"), [("path", "when_required"), ("auto", "when_supported")]
)
def test_other_settings_for_other_servers_work(
    bucket: str, put: Put, addressing_style: AddressingStyle, checksums: Checksums
) -> None:
    with closing(S3Store(bucket, addressing_style=addressing_style, checksums=checksums)) as store:
        put(store, b"picture")
        assert read(store) == b"picture"


def test_an_object_declares_its_type_and_hash(
    store: S3Store, s3_server: S3Server, bucket: str, put: Put
) -> None:
    put(store, b"picture")
    head = s3_server.client.head_object(Bucket=bucket, Key=f"prefix/{KEY}")
    assert head["ContentType"] == "image/png"
    assert head["Metadata"] == {"sha256": hashlib.sha256(b"picture").hexdigest()}


def test_repeated_checks_write_one_object_that_no_key_can_name(
    store: S3Store, s3_server: S3Server, bucket: str
) -> None:
    store.check()
    store.check()
    found = s3_server.client.list_objects_v2(Bucket=bucket)["Contents"]
    assert [entry["Key"] for entry in found] == [f"prefix/{MARKER}"]
    with pytest.raises(ValueError, match="not a key"):
        store.open(MARKER)


def test_a_spoilt_put_is_noticed_without_metadata_too(
    store: S3Store, proxy: FaultProxy, put: Put
) -> None:
    proxy.rule = ignores_hashes
    store.check()
    proxy.rule = spoils_and_keeps_no_metadata
    with pytest.raises(StoreError, match="was stored damaged"):
        put(store, b"picture")
    with pytest.raises(StoreError, match="was stored damaged"):
        store.replace(KEY, b"manifest", content_type="application/json")


def test_a_put_spoilt_by_the_server_is_noticed_and_heals(
    store: S3Store, proxy: FaultProxy, put: Put
) -> None:
    proxy.rule = ignores_hashes
    store.check()
    proxy.rule = spoils_what_it_stores
    for _ in range(2):
        with pytest.raises(StoreError, match="was stored damaged") as failure:
            put(store, b"picture")
        assert not isinstance(failure.value, ObjectDiffersError)
    with pytest.raises(StoreError, match="was stored damaged"):
        store.replace(KEY, b"manifest", content_type="application/json")
    proxy.rule = ignores_hashes
    put(store, b"picture")
    assert read(store) == b"picture"


def test_a_put_whose_answer_was_lost_succeeds_when_repeated(
    store: S3Store, proxy: FaultProxy, put: Put
) -> None:
    store.check()
    proxy.rule = stores_and_cuts
    with pytest.raises(StoreError, match="the connection was cut"):
        put(store, b"picture")
    proxy.rule = honest
    put(store, b"picture")
    assert read(store) == b"picture"


def test_a_put_cut_before_the_end_leaves_nothing_visible(
    store: S3Store, proxy: FaultProxy, put: Put
) -> None:
    store.check()
    proxy.rule = cuts
    with pytest.raises(StoreError):
        put(store, b"picture")
    with pytest.raises(MissingObjectError):
        read(store)


def test_nothing_is_tried_twice_inside(store: S3Store, proxy: FaultProxy, put: Put) -> None:
    store.check()
    proxy.seen.clear()
    proxy.rule = lambda _, __: s3_error(503, "SlowDown")
    with pytest.raises(StoreError, match="overloaded"):
        put(store, b"picture")
    assert len(proxy.seen) == 1


def test_a_download_that_breaks_off_is_an_error_not_an_end(
    store: S3Store, proxy: FaultProxy, put: Put
) -> None:
    put(store, b"a picture of some length")
    proxy.rule = cuts_downloads
    with pytest.raises(StoreError, match=f"cannot read {KEY}"):
        read(store)


def test_a_silent_server_is_left_after_the_timeout(
    store: S3Store, bucket: str, proxy: FaultProxy, put: Put
) -> None:
    put(store, b"picture")
    end = Event()

    def is_silent(request: ProxyRequest, forward: Forward) -> ProxyResponse:
        end.wait(20)
        return forward(request)

    proxy.rule = is_silent
    try:
        with (
            closing(S3Store(bucket, "prefix", timeouts=(20, 0.5))) as impatient,
            pytest.raises(StoreError, match="no answer in time"),
        ):
            read(impatient)
    finally:
        end.set()


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        (ProxyResponse(502, {}, b"<html>Bad Gateway</html>"), "502"),
        (ProxyResponse(200, {"content-length": "89, 89"}), "correct AWS_ENDPOINT_URL_S3"),
        (ProxyResponse(400, {}, b"not XML"), "400"),
        (
            ProxyResponse(301, {"location": "https://localhost/"}),
            "does not answer like an S3 server",
        ),  # http for https, say
        (s3_error(400, "AuthorizationHeaderMalformed"), "set AWS_DEFAULT_REGION"),
        (s3_error(403, "RequestTimeTooSkewed"), "clock"),
    ],
)
def test_strange_answers_are_errors_of_ours(
    store: S3Store, proxy: FaultProxy, answer: ProxyResponse, remedy: str
) -> None:
    proxy.rule = lambda _, __: answer
    with pytest.raises(StoreError, match=remedy):
        store.check()
    with pytest.raises(StoreError, match=remedy):
        store.open(KEY)


def test_a_forbidden_write_names_the_rights_to_give(
    store: S3Store, s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.reader[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.reader[1])
    with pytest.raises(
        StoreError, match=f"bucket '{bucket}' .*allow these credentials s3:PutObject"
    ):
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
        ("AWS_ENDPOINT_URL_S3", "planted-secret", "AWS_ENDPOINT_URL_S3 is no URL"),
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
