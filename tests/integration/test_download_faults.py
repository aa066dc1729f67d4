"""Sources that keep failing: attempts go on until the URL expires, unless they cannot help.

No asset is lost without an announcement. The sources are real servers. ``test_pipeline_sources``
tests that a source that fails once is tried again.
"""

import hashlib
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from archiving import PNG, SIZE
from ledgers import opened, succeeded
from outside_network import (
    OK,
    OUTSIDE,
    OutsideNetwork,
    Script,
    answer,
    chunked,
    drip,
    redirect,
    send,
    silence,
)
from unattended_worker import LIFETIME, URL, UnattendedWorker

from receiver.archive.archiver import (
    ATTEMPTS_BEFORE_REFRESH,
    BACK_OFF,
    MAX_BAD_FILES,
)
from receiver.archive.manifest import asset_key
from receiver.model import AssetState, JobState, Reason, risk_begins

GONE = answer(status="404 Not Found", body=b"")
BROKEN = answer(status="500 Oops", body=b"")


@pytest.fixture
def worker(sqlite_url: str, tmp_path: Path) -> Iterator[UnattendedWorker]:
    with (
        OutsideNetwork(tmp_path / "picture") as network,
        opened(sqlite_url) as ledger,
        closing(UnattendedWorker(ledger, network, tmp_path)) as worker,
    ):
        yield worker


def reset(connection: socket.socket) -> None:
    connection.sendall(OK + b"Content-Length: 9\r\n\r\nbody")
    connection.setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
    )  # closing now resets


def remove_the_name(network: OutsideNetwork) -> None:
    del network.names["pictures.example"]


def close_the_port(network: OutsideNetwork) -> None:
    network.names["pictures.example"] = ["93.184.216.35"]


# Faults that sandbox files cannot have, and that end


STALL = (20.0, 0.2)  # limits of the first download: seconds in all, and without data
ENDING: dict[str, tuple[Script, tuple[float, float], str]] = {
    "a drip": (
        drip(OK + b"Content-Length: 30000\r\n\r\n", 0.02),
        (0.3, 20),
        "not finished within",
    ),
    "a stall": (silence(OK + b"Content-Length: 9\r\n\r\nbody"), STALL, "no data for"),
    "silence": (silence(), STALL, "no data for"),
    "chunks without an end": (chunked(PNG[:-9], end=b""), (20, 20), "end of its chunks is missing"),
    "another protocol": (send(b"220 mail.example ESMTP\r\n"), (20, 20), "BadStatusLine"),
    "overloaded": (answer(status="503 Busy", body=b""), (20, 20), "answered 503"),
}


@pytest.mark.parametrize(("fault", "limits", "message"), ENDING.values(), ids=ENDING)
def test_the_second_attempt_archives_the_picture(
    worker: UnattendedWorker, fault: Script, limits: tuple[float, float], message: str
) -> None:
    worker.serve(fault, answer(body=PNG))
    ref = worker.announce()
    worker.attempt_with_limits(*limits)
    assert worker.run_until_finished(ref).state is JobState.ARCHIVED
    first, second = worker.attempts
    assert message in first.asset.error
    assert 0.75 <= second.at - first.at <= 1.25
    assert worker.stored(second.asset.key) == PNG
    assert worker.ledger.event_types(ref) == ["asset.archived", "job.archived"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [(remove_the_name, "Name or service not known"), (close_the_port, "Connection refused")],
)
def test_a_source_that_cannot_be_reached_is_tried_again(
    worker: UnattendedWorker, fault: Callable[[OutsideNetwork], None], message: str
) -> None:
    worker.serve(answer(body=PNG))
    ref = worker.announce()
    fault(worker.network)
    (claimed,) = worker.ledger.assets.claim(1)
    worker._archiver.archive(claimed)
    assert message in worker.ledger.assets_of(ref)[0].error
    worker.network.names["pictures.example"] = [OUTSIDE]
    assert worker.run_until_finished(ref).state is JobState.ARCHIVED


# Faults that never end


LASTING: dict[str, Script] = {
    "not ready": GONE,
    "an error": BROKEN,
    "reset": reset,
    "cut short of its length": answer("Content-Length: 30000", body=PNG),
    "zero bytes": answer("Content-Type: image/png", body=b""),
    "no answer at all": send(),
}


@pytest.mark.parametrize("fault", LASTING.values(), ids=LASTING)
def test_a_fault_that_may_end_is_tried_until_the_url_expires_and_the_risk_is_announced_before(
    worker: UnattendedWorker, fault: Script
) -> None:
    worker.serve(fault)
    ref = worker.announce()
    begun = worker.ledger.clock.now
    job = worker.run_until_finished(ref)
    assert (job.state, job.reason) == (JobState.EXPIRED, None)
    assert worker.ledger.event_types(ref) == ["job.at_risk", "job.expired"]
    expires_at = begun + LIFETIME
    assert (
        risk_begins(expires_at, LIFETIME)
        <= worker.event_time(ref, "job.at_risk")
        < expires_at
        <= worker.event_time(ref, "job.expired")
    )
    assert f"{len(worker.attempts)} attempts" in job.message
    assert worker.attempts[-1].at == expires_at, "the last chance is the last moment"
    assert {attempt.asset.state for attempt in worker.attempts[:-1]} == {AssetState.PENDING}


def test_the_pauses_grow_all_differ_and_end_at_the_deadline(worker: UnattendedWorker) -> None:
    worker.serve(BROKEN)
    ref, begun = worker.announce(), worker.ledger.clock.now
    worker.run_until_finished(ref)
    moments = [attempt.at for attempt in worker.attempts]
    assert moments[0] == begun
    pauses = [later - earlier for earlier, later in pairwise(moments)]
    for number, pause in enumerate(pauses[:-1]):
        expected = min(2**number, BACK_OFF[-1])
        assert 0.75 * expected <= pause <= 1.25 * expected
    assert 0 < pauses[-1] <= 1.25 * BACK_OFF[-1]
    assert len(set(pauses)) == len(pauses)
    assert LIFETIME / (1.25 * BACK_OFF[-1]) < len(moments) < LIFETIME / (0.75 * BACK_OFF[-1]) + 7


NEVER_A_PICTURE: dict[str, tuple[Script, int, str]] = {
    "a page": (
        answer("Content-Type: image/png", body=b"<!DOCTYPE html><html>soon</html>"),
        MAX_BAD_FILES,
        "an HTML page, not a picture",
    ),
    "half a picture, its length unknown": (
        send(OK, b"\r\n", PNG[: SIZE // 2]),
        2,
        "PNG",
    ),
    "half a picture, its length wrong": (
        answer(f"Content-Length: {SIZE // 2}", body=PNG),
        2,
        "PNG",
    ),
    "too large": (answer(body=PNG + bytes(3 * SIZE)), 1, "FETCH_MAX_BYTES"),
    "led inside": (redirect("http://169.254.169.254/latest"), 1, "169.254.169.254"),
}


@pytest.mark.parametrize(
    ("fault", "attempts", "message"), NEVER_A_PICTURE.values(), ids=NEVER_A_PICTURE
)
def test_what_cannot_become_a_picture_fails_long_before_the_url_expires(
    worker: UnattendedWorker, tmp_path: Path, fault: Script, attempts: int, message: str
) -> None:
    worker.serve(fault)
    ref, begun = worker.announce(), worker.ledger.clock.now
    job = worker.run_until_finished(ref)
    assert (job.state, job.reason) == (JobState.FAILED, Reason.BAD_ASSET)
    assert message in job.message
    assert len(worker.attempts) == attempts
    assert worker.ledger.clock.now < begun + LIFETIME / 2
    assert worker.ledger.event_types(ref) == ["job.failed"]
    assert not list(tmp_path.rglob("archive/2*/**/0.*"))


def test_a_source_that_is_repaired_at_the_last_moment_is_archived(worker: UnattendedWorker) -> None:
    def repaired(connection: socket.socket) -> None:
        (answer(body=PNG) if worker.ledger.clock.now >= expires_at else BROKEN)(connection)

    worker.serve(repaired)
    ref, expires_at = worker.announce(), worker.ledger.clock.now + LIFETIME
    assert worker.run_until_finished(ref).state is JobState.ARCHIVED
    assert worker.attempts[-1].at == expires_at
    assert worker.ledger.event_types(ref) == ["job.at_risk", "asset.archived", "job.archived"]


# URLs that expire early


def test_a_url_that_expired_early_is_replaced_by_a_new_one(worker: UnattendedWorker) -> None:
    worker.serve(
        *[answer(status="403 Expired", body=b"")] * ATTEMPTS_BEFORE_REFRESH, answer(body=PNG)
    )
    worker.provider.answer = succeeded("http://pictures.example/fresh.png")
    ref = worker.announce()
    assert worker.run_until_finished(ref).state is JobState.ARCHIVED
    assert worker.attempts[-1].asset.url == "http://pictures.example/fresh.png"
    assert worker.provider.requests == 1
    assert worker.ledger.event_types(ref) == ["asset.archived", "job.archived"]


def test_an_expired_url_that_is_never_replaced_is_polled_within_limits_and_the_job_expires(
    worker: UnattendedWorker,
) -> None:
    worker.serve(GONE)
    worker.provider.answer = succeeded(URL)
    ref = worker.announce()
    assert worker.run_until_finished(ref).state is JobState.EXPIRED
    assert 1 < worker.provider.requests < 2 * len(worker.attempts)
    assert worker.ledger.event_types(ref) == ["job.at_risk", "job.expired"]


# Several pictures


def test_the_same_bytes_are_archived_for_each_job_that_paid_for_them(
    worker: UnattendedWorker,
) -> None:
    worker.serve(answer(body=PNG))
    refs = [worker.announce(task="task-1"), worker.announce(task="task-2")]
    assert {worker.run_until_finished(ref).state for ref in refs} == {JobState.ARCHIVED}
    for ref in refs:
        (asset,) = worker.ledger.assets_of(ref)
        assert (asset.key, asset.sha256) == (
            asset_key(ref, 0, "png"),
            hashlib.sha256(PNG).hexdigest(),
        )
        assert worker.stored(asset.key) == PNG


def test_the_same_url_twice_in_one_result_is_two_objects(worker: UnattendedWorker) -> None:
    worker.serve(answer(body=PNG))
    ref = worker.announce(URL, URL)
    assert worker.run_until_finished(ref).state is JobState.ARCHIVED
    assert [asset.key for asset in worker.ledger.assets_of(ref)] == [
        asset_key(ref, idx, "png") for idx in range(2)
    ]


def test_one_bad_source_does_not_delay_the_other_assets_of_its_job(
    worker: UnattendedWorker,
) -> None:
    worker.serve(answer(body=PNG))
    worker.network.names["broken.example"] = ["93.184.216.36"]
    worker.network.serve(BROKEN, at=("93.184.216.36", 80))
    ref, begun = worker.announce(URL, "http://broken.example/1.png", URL), worker.ledger.clock.now
    assert worker.run_until_finished(ref).state is JobState.EXPIRED
    first, lost, third = worker.ledger.assets_of(ref)
    assert [first.finished_at, third.finished_at] == [begun, begun]
    assert lost.state is AssetState.EXPIRED
    assert worker.ledger.job(ref).message.startswith("asset 1: ")
    assert worker.ledger.event_types(ref) == [
        "asset.archived",
        "asset.archived",
        "job.at_risk",
        "job.expired",
    ]
