"""Reports as real clients see them: what they change in the ledger, and what they never change."""

import base64
import gzip
import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from archiving import PNG
from http_server import HttpServer
from ledgers import NOW, TIMING, LedgerHarness, failed, succeeded, urls
from reconciling import ReconcileHarness
from submitting import grsai_client

from receiver.archive.conclusion import shortfall
from receiver.archive.stores.directory import DirectoryStore
from receiver.doctor import checks
from receiver.errors import UnreadableError
from receiver.model import (
    AssetState,
    Decision,
    EventType,
    JobState,
    Reason,
    Source,
    Submission,
)
from receiver.net.download import Fetcher
from receiver.net.policy import AddressPolicy
from receiver.providers.grsai.reports import MAX_RESULTS
from receiver.settings import Settings

GARBAGE = b'{"id":"task-1","status":"succ'


@pytest.mark.both_databases
@pytest.mark.parametrize("source", [Source.CALLBACK, Source.POLL, Source.STREAM])
def test_a_repaired_report_ends_its_job_and_the_delivery_says_what_was_repaired(
    ledger: LedgerHarness, source: Source
) -> None:
    ref = ledger.waiting()
    body = gzip.compress(b"[" + succeeded().replace(b"{", b'{"a":"\xff",', 1) + b"]")
    assert ledger.deliver(ref, body, source) is Decision.ENDED
    assert ledger.job(ref).state is JobState.ARCHIVING
    (entry,) = ledger.queries.delivery_log(ref)
    assert entry.repaired == "compressed, not UTF-8, list of one"
    (row,) = ledger.queries.deliveries(ref)
    assert row.body == body


# What stays unreadable.


@pytest.mark.parametrize("source", [Source.CALLBACK, Source.STREAM])
def test_after_an_unreadable_report_the_job_is_polled_at_once_and_once_an_interval(
    ledger: LedgerHarness, source: Source
) -> None:
    ref = ledger.waiting()
    ledger.clock.advance(1)
    for _ in range(2):
        with pytest.raises(UnreadableError):
            ledger.deliver(ref, GARBAGE, source)
    assert ledger.job(ref).due_at == NOW + 1
    assert ledger.notified
    (claimed,) = ledger.jobs.claim(1)
    ledger.jobs.release(claimed, NOW + 1000)
    with pytest.raises(UnreadableError):
        ledger.deliver(ref, GARBAGE, source)
    assert ledger.job(ref).due_at == NOW + 1 + TIMING.poll_interval
    assert ledger.verdicts(ref) == ["unreadable"] * 3


def test_an_unreadable_answer_to_a_poll_is_stored_and_does_not_cause_another_poll(
    ledger: LedgerHarness,
) -> None:
    ref = ledger.waiting()
    due_at = ledger.job(ref).due_at
    with pytest.raises(UnreadableError):
        ledger.deliver(ref, GARBAGE, Source.POLL)
    assert (ledger.job(ref).due_at, ledger.verdicts(ref)) == (due_at, ["unreadable"])


def test_an_unreadable_report_about_an_ended_job_changes_nothing(ledger: LedgerHarness) -> None:
    refs = [ledger.archived(provider_id="1"), ledger.failed("2"), ledger.expired("3")]
    before = [ledger.job(ref) for ref in refs]
    for ref in refs:
        with pytest.raises(UnreadableError):
            ledger.deliver(ref, GARBAGE)
    assert [ledger.job(ref) for ref in refs] == before


@pytest.mark.parametrize(
    "wrap",
    [
        lambda body: body,
        lambda body: b"[" + body + b"]",
        lambda body: b"payload=" + body,
        lambda body: gzip.compress(b'{"code":0,"data":' + body + b"}"),
        lambda body: json.dumps(body.decode()).encode(),
        lambda body: body.decode().encode("utf-16"),
    ],
    ids=["plain", "list", "form", "gzip", "string", "utf-16"],
)
def test_another_task_in_any_wrapping_is_not_ours(
    ledger: LedgerHarness, wrap: Callable[[bytes], bytes]
) -> None:
    ref = ledger.waiting()
    assert ledger.deliver(ref, wrap(succeeded(provider_id="task-2"))) is Decision.OTHER_ID
    job = ledger.job(ref)
    assert (job.state, job.provider_id, ledger.assets_of(ref)) == (JobState.WAITING, "task-1", [])


# A refusal that was none.


@pytest.mark.both_databases
@pytest.mark.parametrize("source", [Source.CALLBACK, Source.POLL, Source.STREAM])
def test_a_success_of_a_job_that_we_took_for_refused_is_archived(
    ledger: LedgerHarness, source: Source
) -> None:
    ref = ledger.submitting()
    ledger.jobs.record_refused(ref, "code 200")
    assert ledger.deliver(ref, succeeded(), source) is Decision.ENDED
    job = ledger.job(ref)
    assert (job.state, job.reason, job.message, job.provider_id, job.round) == (
        JobState.ARCHIVING,
        None,
        "",
        "task-1",
        1,
    )
    assert ledger.pending(ref) == [0]
    assert ledger.deliver(ref, succeeded(), source) in {Decision.DUPLICATE, Decision.REFRESHED}
    assert ledger.event_types(ref) == [EventType.JOB_FAILED]
    assert ledger.totals.audit().ok


def test_a_refused_job_stays_refused_whatever_else_is_reported(ledger: LedgerHarness) -> None:
    ref = ledger.submitting()
    ledger.jobs.record_refused(ref, "no credits", "task-1")
    for body in (failed(), succeeded(""), succeeded(provider_id="task-2")):
        assert ledger.deliver(ref, body) in {Decision.CONTRADICTION, Decision.OTHER_ID}
    job = ledger.job(ref)
    assert (job.state, job.reason, job.message) == (JobState.FAILED, Reason.REFUSED, "no credits")


def test_where_callbacks_want_confirmation_a_refused_job_is_polled_before_it_is_believed(
    ledger: LedgerHarness,
) -> None:
    ref = ledger.submitting()
    ledger.jobs.record_refused(ref, "code 200")
    ledger.inbox = ledger.make_inbox(confirms=True)
    assert ledger.deliver(ref, succeeded()) is Decision.UNCONFIRMED
    job = ledger.job(ref)
    assert (job.state, job.provider_id, job.due_at) == (JobState.WAITING, "task-1", NOW)
    assert ledger.deliver(ref, succeeded(), Source.POLL) is Decision.ENDED


def test_an_id_in_a_refusal_is_kept_unless_another_job_has_it(ledger: LedgerHarness) -> None:
    taken, free = ledger.submitting(), ledger.submitting()
    ledger.waiting("task-1")
    assert ledger.jobs.record_refused(taken, "no", "task-1").provider_id is None
    assert ledger.jobs.record_refused(free, "no", "task-2").provider_id == "task-2"


# Results.


@pytest.mark.both_databases
def test_fewer_pictures_than_requested_are_said(ledger: LedgerHarness) -> None:
    ref = ledger.jobs.submit(Submission("a fox", "m", {"variants": 4}), "https://p.test").ref
    ledger.deliver(ref, succeeded(*urls(1)))
    job = ledger.job(ref)
    assert (job.requested, job.missing(1), job.missing(4)) == (4, 3, 0)
    assert shortfall(job, 1) == "4 pictures were requested, the provider made 1"
    assert shortfall(job, 4) == ""


@pytest.mark.both_databases
def test_results_beyond_the_limit_are_reported(ledger: LedgerHarness) -> None:
    ref = ledger.waiting()
    assert ledger.deliver(ref, succeeded(*urls(MAX_RESULTS + 3))) is Decision.ENDED
    job = ledger.job(ref)
    assert len(ledger.pending(ref)) == MAX_RESULTS
    assert (job.left_out, job.missing(MAX_RESULTS)) == (3, 3)
    assert shortfall(job, MAX_RESULTS) == "3 more results than the 256 that a job archives"


def test_an_archived_job_with_fewer_pictures_says_so(harness: ReconcileHarness) -> None:
    ref = harness.posted(variants=1)
    harness.ledger.execute("UPDATE jobs SET requested = 2 WHERE ref = :ref", ref=ref)
    harness.reconcile(ref)
    harness.archive(ref)
    job = harness.ledger.job(ref)
    assert (job.state, job.message) == (
        JobState.ARCHIVED,
        "2 pictures were requested, the provider made 1",
    )
    manifest = harness.manifest(ref)
    assert manifest is not None
    assert (manifest["requested"], manifest["message"]) == (2, job.message)


@pytest.mark.both_databases
@pytest.mark.parametrize("source", [Source.CALLBACK, Source.POLL, Source.STREAM])
def test_a_picture_inside_the_report_is_archived_from_it(
    ledger: LedgerHarness, tmp_path: Path, source: Source
) -> None:
    ref = ledger.waiting()
    address = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    results = [{"url": address}, {"url": address.replace("+", "-").replace("/", "_")[:-4000]}]
    body = json.dumps({"id": "task-1", "status": "succeeded", "results": results}).encode()
    assert ledger.deliver(ref, body, source) is Decision.ENDED
    assert [asset.url for asset in ledger.assets_of(ref)] == ["delivery:0", "delivery:1"]
    fetcher = Fetcher(AddressPolicy(), max_bytes=20_000, timeout=1)
    archiver = ledger.archiver(fetcher, DirectoryStore(tmp_path / "archive"), tmp_path)
    for claimed in ledger.assets.claim(2):
        archiver.archive(claimed)
    whole, broken = ledger.assets_of(ref)
    assert (whole.state, whole.size) == (AssetState.ARCHIVED, len(PNG))
    assert broken.state is AssetState.FAILED


class Redirecting(HttpServer):
    """Redirects every POST."""

    def handle_post(self, request: BaseHTTPRequestHandler) -> None:
        request.rfile.read(int(request.headers["Content-Length"]))
        request.send_response(308)
        request.send_header("Location", "https://grsaiapi.com/v1/x?key=1")
        request.end_headers()


def test_the_doctor_names_a_redirect_and_its_target() -> None:
    with Redirecting() as server:
        chosen = Settings.load({"GRSAI_BASE_URL": f"http://{server.address}"})
        with pytest.raises(checks.Trouble) as found:
            checks.provider(chosen, grsai_client(chosen.grsai_base_url))
    assert str(found.value).endswith(
        "the provider redirects to https://grsaiapi.com/v1/x: "
        "set GRSAI_BASE_URL to https://grsaiapi.com"
    )
    assert "GRSAI_BASE_URL" in found.value.remedy
