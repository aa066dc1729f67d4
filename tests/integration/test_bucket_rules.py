"""Rules of real buckets: required checksums and encryption, credentials that expire, versions."""

import hashlib
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from fake_s3 import FakeS3
from faultproxy import FaultProxy, Forward, ProxyRequest, ProxyResponse, Rule, honest, s3_error
from s3_dialects import (
    accepts_only,
    ignores_hashes,
    overwrites_in_spite_of_conditions,
    refuses_conditions,
    requires_a_checksum,
    requires_an_md5,
    requires_encryption,
)
from seaweed import S3Server

from receiver.archive.stores.s3 import MARKER, S3Store
from receiver.archive.stores.s3_options import S3Options
from receiver.errors import StoreError

KEY = "2026/07/01/REF/0.png"
MANIFEST = "2026/07/01/REF/job.json"
NAME = f"home/{MARKER}"
WRONG = b64encode(hashlib.sha256(b"other").digest()).decode()


@pytest.fixture
def store(fake_bucket: tuple[FakeS3, FaultProxy]) -> Iterator[S3Store]:  # noqa: ARG001 - its address is in the environment
    with closing(S3Store("pictures", "home")) as store:
        yield store


def use(store: S3Store, folder: Path) -> None:
    """Do all that writes."""
    path = folder / "fetched"
    path.write_bytes(b"picture")
    store.check()
    store.put(KEY, path, sha256=hashlib.sha256(b"picture").hexdigest(), content_type="image/png")
    store.create(MANIFEST, b"{}", content_type="application/json")
    store.replace(MANIFEST, b"{1}", content_type="application/json")
    assert store.probe().whole


@pytest.mark.parametrize(
    "rule", [honest, requires_a_checksum, requires_an_md5, requires_encryption]
)
def test_a_bucket_with_rules_works_and_keeps_what_each_put_says(
    fake_bucket: tuple[FakeS3, FaultProxy], tmp_path: Path, rule: Rule
) -> None:
    server, proxy = fake_bucket
    proxy.rule = rule
    options = S3Options(sse="aws:kms", sse_kms_key_id="key-1", storage_class="STANDARD_IA")
    with closing(S3Store("pictures", "home", options)) as store:
        use(store, tmp_path)
    versions = [each for name in server.versions for each in server.versions[name]]
    assert {f"home/{KEY}", f"home/{MANIFEST}", NAME} <= set(server.versions)
    for each in versions:
        assert each.headers["x-amz-server-side-encryption"] == "aws:kms"
        assert each.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "key-1"
        assert each.headers["x-amz-storage-class"] == "STANDARD_IA"


def test_a_real_bucket_with_object_lock_works_with_default_settings(
    s3_server: S3Server,
    bucket: str,
    tmp_path: Path,
) -> None:
    client = s3_server.client
    name = f"{bucket}-lock"
    client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    client.put_object_lock_configuration(
        Bucket=name,
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}},
        },
    )
    with closing(S3Store(name, "home")) as store:
        use(store, tmp_path)
        with store.open(KEY) as stored:
            assert stored.read() == b"picture"
    assert client.get_object_retention(Bucket=name, Key=f"home/{KEY}")["Retention"]


# The marker


@pytest.mark.parametrize(
    ("rule", "first", "later"),
    [
        (honest, 1, 0),
        (refuses_conditions, 1, 0),
        (ignores_hashes, 2, 1),
        (overwrites_in_spite_of_conditions, 2, 1),
    ],
)
def test_health_checks_write_no_new_versions(
    fake_bucket: tuple[FakeS3, FaultProxy], rule: Rule, first: int, later: int
) -> None:
    server, proxy = fake_bucket
    proxy.rule = rule
    for written in (first, later):
        before = len(server.versions.get(NAME, ()))
        with closing(S3Store("pictures", "home")) as store, ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _: store.check(), range(16)))
            assert len(server.versions[NAME]) - before <= written
            proxy.seen.clear()
            store.check()
        assert {method for method, _ in proxy.seen} <= {"HEAD", "GET"}


def test_a_marker_that_was_deleted_is_written_again(
    fake_bucket: tuple[FakeS3, FaultProxy], store: S3Store
) -> None:
    store.check()
    fake_bucket[0].versions.clear()
    store.check()
    assert NAME in fake_bucket[0].versions


def test_after_a_failed_write_a_check_writes(
    fake_bucket: tuple[FakeS3, FaultProxy], store: S3Store
) -> None:
    def read_only(request: ProxyRequest, forward: Forward) -> ProxyResponse:
        full = s3_error(403, "QuotaExceeded", "The quota is used up")
        return full if request.method == "PUT" else forward(request)

    store.check()
    fake_bucket[1].rule = read_only
    with pytest.raises(StoreError, match="The quota is used up"):
        store.replace(MANIFEST, b"{}", content_type="application/json")
    with pytest.raises(StoreError, match="The quota is used up"):
        store.check()
    fake_bucket[1].rule = honest
    store.check()
    fake_bucket[1].rule = read_only
    store.check()


def test_of_many_threads_one_writes_the_marker_again(
    fake_bucket: tuple[FakeS3, FaultProxy], store: S3Store
) -> None:
    def full(request: ProxyRequest, forward: Forward) -> ProxyResponse:
        return s3_error(503, "SlowDown") if request.method == "PUT" else forward(request)

    def check_in_many_threads() -> int:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _: store.check(), range(16)))
        return len(fake_bucket[0].versions[NAME])

    store.check()
    before = len(fake_bucket[0].versions[NAME])
    fake_bucket[1].rule = full
    with pytest.raises(StoreError, match="overloaded"):
        store.replace(MANIFEST, b"{}", content_type="application/json")
    fake_bucket[1].rule = honest
    assert check_in_many_threads() == before + 1
    del fake_bucket[0].versions[NAME]
    assert check_in_many_threads() == 1


@pytest.mark.parametrize("code", ["RequestTimeout", "ExpiredToken"])
def test_a_fault_while_the_server_is_tried_does_not_count_as_a_rejected_hash(
    fake_bucket: tuple[FakeS3, FaultProxy], store: S3Store, code: str
) -> None:
    def rule(request: ProxyRequest, forward: Forward) -> ProxyResponse:
        if request.headers.get("x-amz-checksum-sha256") == WRONG:
            return s3_error(400, code)
        return ignores_hashes(request, forward)

    fake_bucket[1].rule = rule
    with pytest.raises(StoreError, match=code):
        store.reads_back()
    fake_bucket[1].rule = ignores_hashes
    assert store.reads_back()


# Credentials


def write_profile(path: Path, key: str) -> None:
    written = path.with_suffix(".new")
    written.write_text(
        f"[default]\naws_access_key_id={key}\naws_secret_access_key=planted-secret\n"
        f"aws_session_token=token-of-{key}\n"
    )
    written.replace(path)


@pytest.fixture
def profile(
    fake_bucket: tuple[FakeS3, FaultProxy],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Give the credentials in a file only; the server accepts the first ones."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    path = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    write_profile(path, "first")
    fake_bucket[1].rule = accepts_only("first", "ExpiredToken")
    return path


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidToken", "RequestExpired"])
def test_renewed_credentials_are_used_without_a_restart(
    fake_bucket: tuple[FakeS3, FaultProxy], profile: Path, store: S3Store, tmp_path: Path, code: str
) -> None:
    use(store, tmp_path)
    fake_bucket[1].rule = accepts_only("second", code)
    with pytest.raises(StoreError, match=f"expired.*{code}"):
        store.check()
    write_profile(profile, "second")
    assert "X-Amz-Credential=second" in (store.link(KEY, 60, name="0.png") or "")
    store.check()
    listed = list(store.keys())
    assert [name for name, _ in listed] == [KEY, MANIFEST]
    with store.open(KEY) as stored:
        assert stored.read() == b"picture"


@pytest.mark.parametrize(
    ("code", "said"), [("ExpiredToken", "renew them"), ("InvalidTokenId", "AWS_SESSION_TOKEN")]
)
def test_credentials_that_boto_reads_elsewhere_are_read_again_when_refused(
    fake_bucket: tuple[FakeS3, FaultProxy],
    store: S3Store,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    said: str,
) -> None:
    fake_bucket[1].rule = accepts_only("testkey", code)
    store.check()
    fake_bucket[1].rule = accepts_only("second", code)
    with pytest.raises(StoreError, match=said):
        store.check()
    # As a command in `credential_process`, or a metadata service, would.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "second")
    store.check()


def test_a_key_is_found_free_with_renewed_credentials_without_conditional_puts(
    fake_bucket: tuple[FakeS3, FaultProxy],
    store: S3Store,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    fake_bucket[1].rule = overwrites_in_spite_of_conditions
    store.check()

    def expired(request: ProxyRequest, forward: Forward) -> ProxyResponse | None:
        signed = accepts_only("second", "ExpiredToken")
        return signed(request, lambda one: overwrites_in_spite_of_conditions(one, forward))

    fake_bucket[1].rule = expired
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "second")
    (path := tmp_path / "fetched").write_bytes(b"picture")
    store.put(KEY, path, sha256=hashlib.sha256(b"picture").hexdigest(), content_type="image/png")
    with store.open(KEY) as stored:
        assert stored.read() == b"picture"


def test_a_profile_that_is_being_written_does_not_stop_the_work(
    profile: Path, store: S3Store
) -> None:
    store.check()
    profile.write_text("[default\nnonsense")
    store.check()


def test_a_stored_object_is_verified_by_its_bytes_not_by_its_etag(
    fake_bucket: tuple[FakeS3, FaultProxy], tmp_path: Path
) -> None:
    def drops_a_byte(request: ProxyRequest, forward: Forward) -> ProxyResponse:
        if request.method == "PUT" and request.path.endswith(KEY):
            bare = {k: v for k, v in request.headers.items() if "checksum" not in k}
            request = replace(request, body=request.body[:-1], headers=bare)
        return forward(request)

    fake_bucket[1].rule = drops_a_byte
    with (
        closing(S3Store("pictures", "home", S3Options(verify="always"))) as store,
        pytest.raises(StoreError, match="was stored damaged"),
    ):
        use(store, tmp_path)
