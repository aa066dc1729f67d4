"""Faults of the bucket: unavailable, slow, refusing, with wrong bytes, or with lost responses.

The asset waits and no attempt is counted. When the fault ends, there is exactly one object.
"""

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from archiving import PNG, ArchivingHarness, due, scripted_source
from faultproxy import (
    FaultProxy,
    Forward,
    ProxyRequest,
    ProxyResponse,
    Rule,
    fault_proxy,
    honest,
    s3_error,
    without,
)
from ledgers import LedgerHarness, opened
from outside_network import answer
from seaweed import S3Server

from receiver.archive.archiver import STORE_RETRY_DELAY
from receiver.archive.manifest import asset_key, manifest_key
from receiver.archive.stores.s3 import S3Store
from receiver.archive.stores.s3_options import S3Options
from receiver.archive.stores.s3_transport import Limits
from receiver.model import AssetState, JobState
from submitter.sandbox import Sandbox

GONE = answer(status="404 Not Found", body=b"")
LIVES = answer(body=PNG)


@pytest.fixture
def ledger(sqlite_url: str) -> Iterator[LedgerHarness]:
    with opened(sqlite_url) as ledger:
        yield ledger


class Bucket:
    """One bucket and one store that uses it through a proxy.

    All tests share them, because creating them takes longer than a test.
    """

    def __init__(self, server: S3Server, proxy: FaultProxy) -> None:
        self.name = server.make_bucket()
        self.proxy = proxy
        self.store = S3Store(
            self.name, "pictures", S3Options(verify="always"), limits=Limits(1, 1.5)
        )  # longer than the real server needs on a busy machine
        self._client = server.client
        self._before: list[str] = []

    def begin(self) -> None:
        """Prepare a test: the proxy forwards everything, and the store has checked the bucket."""
        self.proxy.rule = honest
        self.store.check()
        self.proxy.seen.clear()
        self._before = self._all()

    def keys(self) -> list[str]:
        """Return the sorted keys of the objects of this test, read without the proxy."""
        return sorted(set(self._all()) - set(self._before))

    def read(self, key: str) -> bytes:
        """Return an object's bytes, read without the proxy."""
        return self._client.get_object(Bucket=self.name, Key=f"pictures/{key}")["Body"].read()

    def _all(self) -> list[str]:
        found = self._client.list_objects_v2(Bucket=self.name, Prefix="pictures/2").get(
            "Contents", []
        )
        return [entry["Key"].removeprefix("pictures/") for entry in found]


@pytest.fixture(scope="module")
def shared(s3_server: S3Server) -> Iterator[Bucket]:
    with fault_proxy(s3_server) as proxy, pytest.MonkeyPatch.context() as patch:
        for name, value in {**s3_server.environment(), "AWS_ENDPOINT_URL_S3": proxy.url}.items():
            patch.setenv(name, value)
        with closing((bucket := Bucket(s3_server, proxy)).store):
            bucket.begin()
            yield bucket


@pytest.fixture
def bucket(shared: Bucket) -> Bucket:
    shared.begin()
    return shared


@pytest.fixture
def proxy(bucket: Bucket) -> FaultProxy:
    return bucket.proxy


@pytest.fixture
def harness(
    ledger: LedgerHarness, bucket: Bucket, sandbox: Sandbox, tmp_path: Path
) -> ArchivingHarness:
    return ArchivingHarness(ledger, bucket.store, tmp_path, sandbox)


# Faults of every request, and of the puts alone.


def is_down(_request: ProxyRequest, _forward: Forward) -> None:
    return None


def answers(status: int, code: str) -> Rule:
    return lambda _request, _forward: s3_error(status, code)


def cuts_puts(request: ProxyRequest, forward: Forward) -> ProxyResponse | None:
    return None if request.method == "PUT" else forward(request)


def is_silent(_request: ProxyRequest, _forward: Forward) -> None:
    threading.Event().wait(2)  # longer than the store's timeout, then the connection is cut


FAULTS = {
    "down": (is_down, "the connection was cut"),
    "silent": (is_silent, "no answer in time"),
    "forbidden": (answers(403, "AccessDenied"), "not permitted: allow these credentials"),
    "an error of its own": (answers(500, "InternalError"), "InternalError|500"),
    "overloaded": (answers(503, "SlowDown"), "overloaded"),
    "cut on the way there": (cuts_puts, "the connection was cut"),
}


@pytest.mark.parametrize(("rule", "message"), FAULTS.values(), ids=FAULTS)
def test_while_the_fault_lasts_the_asset_waits_uncounted_and_its_source_is_spared(
    harness: ArchivingHarness, proxy: FaultProxy, bucket: Bucket, rule: Rule, message: str
) -> None:
    with scripted_source(LIVES) as server:
        ref = harness.announce(server)
        proxy.rule = rule
        errors = []
        for _ in range(3):
            waiting = harness.attempt()
            errors.append(waiting.error)
            assert (waiting.state, waiting.attempts, waiting.claim) == (AssetState.PENDING, 0, None)
            assert 0.75 <= (due(waiting) - harness.ledger.clock.now) / STORE_RETRY_DELAY <= 1.25
            harness.ledger.clock.now = due(waiting)
        assert server.connections == 1
        proxy.rule = honest
        archived = harness.attempt()
    assert (archived.state, archived.attempts) == (AssetState.ARCHIVED, 1)
    assert re.search(message, errors[0])
    assert bucket.keys() == [archived.key, manifest_key(ref)]
    assert harness.ledger.event_types(ref) == ["asset.archived", "job.archived"]


def test_a_slow_bucket_is_waited_for(harness: ArchivingHarness, proxy: FaultProxy) -> None:
    def is_slow(request: ProxyRequest, forward: Forward) -> ProxyResponse:
        threading.Event().wait(0.1)
        return forward(request)

    proxy.rule = is_slow
    with scripted_source(LIVES) as server:
        harness.announce(server)
        assert harness.attempt().state is AssetState.ARCHIVED


def test_a_first_attempt_costs_two_requests(harness: ArchivingHarness, proxy: FaultProxy) -> None:
    with scripted_source(LIVES) as server:
        harness.announce(server)
        assert harness.attempt().state is AssetState.ARCHIVED
    assert [method for method, _path in proxy.seen] == ["PUT", "GET", "PUT", "GET"]


# Answers that are lost


def loses_the_answer_to_the_put(request: ProxyRequest, forward: Forward) -> ProxyResponse | None:
    stored = forward(request)
    return None if request.method == "PUT" else stored


def loses_the_read_back(request: ProxyRequest, forward: Forward) -> ProxyResponse | None:
    return None if request.method == "GET" else forward(request)


@pytest.mark.parametrize("now", [LIVES, GONE], ids=["the source lives", "the source is dead"])
@pytest.mark.parametrize("rule", [loses_the_answer_to_the_put, loses_the_read_back])
def test_an_object_whose_put_was_not_confirmed_is_adopted_without_a_second_one(
    harness: ArchivingHarness,
    proxy: FaultProxy,
    bucket: Bucket,
    rule: Rule,
    now: Callable[..., None],
) -> None:
    with scripted_source(LIVES, now) as server:
        ref = harness.announce(server)
        proxy.rule = rule
        waiting = harness.attempt()
        assert (waiting.state, waiting.attempts) == (AssetState.PENDING, 0)
        (key,) = bucket.keys()
        proxy.rule = honest
        harness.ledger.clock.now = due(waiting)
        proxy.seen.clear()
        asset = harness.attempt()
        assert server.connections == 1
    assert (asset.state, asset.key, asset.sha256) == (
        AssetState.ARCHIVED,
        key,
        hashlib.sha256(PNG).hexdigest(),
    )
    assert bucket.keys() == [key, manifest_key(ref)]
    assert not [path for method, path in proxy.seen if method == "PUT" and key in path], (
        "it was not put again"
    )
    assert harness.ledger.event_types(ref) == ["asset.archived", "job.archived"]


def test_without_the_right_to_list_the_put_itself_finds_what_is_there(
    harness: ArchivingHarness, proxy: FaultProxy, bucket: Bucket
) -> None:
    def forbids_lists(request: ProxyRequest, forward: Forward) -> ProxyResponse:
        return s3_error(403, "AccessDenied") if "list-type" in request.path else forward(request)

    with scripted_source(LIVES) as server:
        ref = harness.announce(server)
        proxy.rule = loses_the_answer_to_the_put
        waiting = harness.attempt()
        proxy.rule = forbids_lists
        harness.ledger.clock.now = due(waiting)
        asset = harness.attempt()
    assert asset.state is AssetState.ARCHIVED
    assert bucket.keys() == [asset.key, manifest_key(ref)]


# Servers that lie


def spoils(request: ProxyRequest, forward: Forward) -> ProxyResponse:
    if request.method != "PUT":
        return forward(request)
    ignored = without(request, "x-amz-checksum-sha256")
    return forward(replace(ignored, body=request.body[:-1] + b"?"))


def test_what_a_server_stored_wrongly_is_found_never_adopted_and_healed_by_the_next_put(
    harness: ArchivingHarness, proxy: FaultProxy, bucket: Bucket
) -> None:
    with scripted_source(LIVES) as server:
        ref = harness.announce(server)
        key = asset_key(ref, 0, "png")
        proxy.rule = spoils
        for _ in range(2):
            waiting = harness.attempt()
            assert (waiting.state, waiting.attempts) == (AssetState.PENDING, 0)
            assert "damaged" in waiting.error
            assert bucket.read(key) != PNG
            harness.ledger.clock.now = due(waiting)
        proxy.rule = honest
        asset = harness.attempt()
    assert (asset.state, asset.key, asset.sha256) == (
        AssetState.ARCHIVED,
        key,
        hashlib.sha256(PNG).hexdigest(),
    )
    assert bucket.read(key) == PNG
    assert bucket.keys() == [key, manifest_key(ref)]


# The manifest


TROUBLES: dict[str, Rule] = {
    **{name: rule for name, (rule, _said) in FAULTS.items()},
    "the answer lost": loses_the_answer_to_the_put,
    "the read-back lost": loses_the_read_back,
    "stored wrongly": spoils,
}


@pytest.mark.parametrize("rule", TROUBLES.values(), ids=TROUBLES)
def test_a_job_is_announced_as_archived_only_after_its_manifest_is_safe(
    harness: ArchivingHarness, proxy: FaultProxy, bucket: Bucket, rule: Rule
) -> None:
    ledger = harness.ledger
    reconciler = ledger.reconciler(harness.store, None, "https://provider.test")
    proxy.rule = lambda request, forward: (rule if "job.json" in request.path else honest)(
        request, forward
    )
    with scripted_source(LIVES) as server:
        ref = harness.announce(server)
        assert harness.attempt().state is AssetState.ARCHIVED
    (claimed,) = ledger.jobs.claim(1, complete=True)
    reconciler.reconcile_job(claimed)
    assert (ledger.job(ref).state, ledger.event_types(ref)) == (
        JobState.ARCHIVING,
        ["asset.archived"],
    )
    proxy.rule = honest
    ledger.clock.now = ledger.job(ref).due_at or 0.0
    (claimed,) = ledger.jobs.claim(1, complete=True)
    reconciler.reconcile_job(claimed)
    assert (ledger.job(ref).state, ledger.event_types(ref)) == (
        JobState.ARCHIVED,
        ["asset.archived", "job.archived"],
    )
    assert bucket.keys() == sorted([asset_key(ref, 0, "png"), manifest_key(ref)])
    assert ref.encode() in bucket.read(manifest_key(ref))
