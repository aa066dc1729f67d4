"""A bucket: differences between S3 servers, damaged bytes, cut connections, strange answers."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
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
)
from s3_dialects import (
    DIALECTS,
    cuts,
    cuts_downloads,
    damages_and_keeps_no_metadata,
    damages_on_the_way,
    damages_what_it_stores,
    ignores_hashes,
    refuses_hashes,
    stores_and_cuts,
)
from seaweed import S3Server

from receiver.archive.stores.s3 import MARKER, S3Store
from receiver.archive.stores.s3_options import AddressingStyle, Checksums, S3Options, Verify
from receiver.archive.stores.s3_transport import Limits
from receiver.errors import MissingObjectError, ObjectDiffersError, StoreError

KEY = "2026/07/01/REF/0.png"


@pytest.fixture
def store(bucket: str, proxy: FaultProxy) -> Iterator[S3Store]:  # noqa: ARG001 - the order matters: the proxy's address goes last
    """Open the bucket through the proxy.

    The timeouts are generous: on a busy machine the first object of a new bucket takes longer than
    half a second.
    """
    with closing(S3Store(bucket, "prefix", limits=Limits(20, 20))) as store:
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
    with closing(
        S3Store(bucket, "prefix", S3Options(verify=verify), limits=Limits(20, 20))
    ) as store:
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
    # It is not there; with the right hash; under a condition and with a wrong hash, these apart.
    assert [method for method, _ in proxy.seen] == ["HEAD", "PUT", "PUT", "PUT"]


def test_bytes_damaged_on_the_way_are_refused_by_a_server_that_verifies_them(
    store: S3Store, proxy: FaultProxy, put: Put
) -> None:
    store.check()
    proxy.rule = damages_on_the_way
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
    with closing(S3Store(bucket, options=S3Options(addressing_style, checksums))) as store:
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


def test_a_damaged_put_is_detected_without_metadata_too(
    store: S3Store, proxy: FaultProxy, put: Put
) -> None:
    proxy.rule = ignores_hashes
    store.check()
    proxy.rule = damages_and_keeps_no_metadata
    with pytest.raises(StoreError, match="was stored damaged"):
        put(store, b"picture")
    with pytest.raises(StoreError, match="was stored damaged"):
        store.replace(KEY, b"manifest", content_type="application/json")


def test_a_put_damaged_by_the_server_is_detected_and_a_repetition_succeeds(
    store: S3Store, proxy: FaultProxy, put: Put
) -> None:
    proxy.rule = ignores_hashes
    store.check()
    proxy.rule = damages_what_it_stores
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


def test_the_store_itself_repeats_nothing(store: S3Store, proxy: FaultProxy, put: Put) -> None:
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


def test_a_server_without_an_answer_is_given_up_after_the_timeout(
    store: S3Store, bucket: str, proxy: FaultProxy, put: Put
) -> None:
    put(store, b"picture")
    end = Event()

    def wait_too_long(request: ProxyRequest, forward: Forward) -> ProxyResponse:
        end.wait(20)
        return forward(request)

    proxy.rule = wait_too_long
    try:
        with (
            closing(S3Store(bucket, "prefix", limits=Limits(20, 0.5))) as quick_store,
            pytest.raises(StoreError, match="no answer in time"),
        ):
            read(quick_store)
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
def test_strange_answers_are_store_errors(
    store: S3Store, proxy: FaultProxy, answer: ProxyResponse, remedy: str
) -> None:
    proxy.rule = lambda _, __: answer
    with pytest.raises(StoreError, match=remedy):
        store.check()
    with pytest.raises(StoreError, match=remedy):
        store.open(KEY)
