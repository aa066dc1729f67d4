"""fal, Replicate, BFL and kie.ai end to end: real signatures, losses, duplicates, and forgeries.

The stand-ins were written by the vendors' documents, apart from what they test.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from other_providers import MODELS, OTHERS, SIGNING, Harness, running
from postgres import PostgresServer
from waiting import until

from receiver.archive.manifest import manifest_key
from receiver.ledger import schema
from receiver.model import JobState, Mode, Proof, Provider, Reason
from submitter.sandbox.stand_ins.fal import USER_ID
from submitter.sandbox.stand_ins.stand_in import FOREIGN_URL


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run all of it on PostgreSQL too with ``--databases both``."""
    if "harness" in metafunc.fixturenames:
        both = metafunc.config.getoption("databases") == "both"
        databases = ("sqlite", "postgresql") if both else ("sqlite",)
        metafunc.parametrize("harness", databases, indirect=True, scope="module")


@pytest.fixture(scope="module")
def harness(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Harness]:
    folder, environ = tmp_path_factory.mktemp("others"), {"FAL_USER_ID": USER_ID}
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.make_database()
        schema.migrate(url)
        environ |= {
            "DATABASE_URL": url.replace("postgresql+psycopg:", "postgresql:"),
            "CALLBACK_SECRETS": "a-secret-of-the-tickets-0123456789",
            "ADMIN_TOKEN": "a-token-of-the-operator-0123456789",
            "ARCHIVE_URL": f"file://{folder}/archive",
        }
    with running(folder, **environ) as found:
        yield found
        assert found.services.totals.audit().ok


BODY, TASK, NONE = Proof.BODY.value, Proof.TASK.value, Proof.NONE.value


# The ladder.


@pytest.mark.parametrize("provider", SIGNING)
def test_a_signed_callback_is_believed_and_nothing_is_asked(
    harness: Harness, provider: Provider
) -> None:
    job = harness.finished(harness.submit(provider).ref)
    assert (job.state, job.provider) == (JobState.ARCHIVED, provider)
    assert harness.is_safe_once(job.ref)
    assert harness.sources_and_proofs(job.ref) == [("callback", BODY)]
    assert harness.sandbox.task(job.provider_id or "")["results_asked"] == 0


def test_a_signed_callback_of_kie_is_read_back(harness: Harness) -> None:
    job = harness.finished(harness.submit(Provider.KIE).ref)
    assert job.state is JobState.ARCHIVED
    assert harness.is_safe_once(job.ref)
    assert harness.sources_and_proofs(job.ref) == [("callback", TASK), ("poll", BODY)]


@pytest.mark.parametrize("provider", OTHERS)
@pytest.mark.parametrize("fault", ["wrong", "stale", "foreign", "none", "altered", "other_urls"])
def test_what_is_not_proved_is_read_back_and_nothing_foreign_is_archived(
    harness: Harness, provider: Provider, fault: str
) -> None:
    job = harness.finished(harness.submit(provider, signature=fault).ref)
    assert job.state is JobState.ARCHIVED
    assert harness.is_safe_once(job.ref)
    callback = harness.sources_and_proofs(job.ref)[0]
    covers_body = provider is not Provider.KIE
    proved = (
        {"none": TASK, "altered": NONE, "other_urls": NONE}
        if covers_body
        else {
            "none": NONE,  # a key is configured, so its signature is missed
            "altered": TASK,
            "other_urls": TASK,
        }
    )
    assert callback == ("callback", proved.get(fault, NONE))
    assert ("poll", BODY) in harness.sources_and_proofs(job.ref)
    assert FOREIGN_URL not in {asset.url for asset in harness.assets(job.ref)}


@pytest.mark.parametrize("provider", OTHERS)
def test_losses_and_duplicates_leave_each_result_archived_once(
    harness: Harness, provider: Provider
) -> None:
    scripts: list[dict[str, object]] = [
        {"callback": {"mode": "duplicate", "times": 3}},
        {"callback": {"mode": "duplicate", "times": 4, "together": False}},
        {"callback": "lost"},
        {"callback": {"mode": "late", "seconds": 0.4}},
        {"callback": "early"},
        {"callback": {"mode": "forged", "retries": 0}},
        {"callback": "contradiction"},
        {"answer": "lost"},
        {"callback": "lost", "result": {"mode": "gateway", "times": 2}},
        {"file": {"mode": "not_ready", "times": 1}},
    ]
    jobs = [harness.submit(provider, script) for script in scripts]
    ended = [harness.finished(job.ref) for job in jobs]
    assert Counter(job.state for job in ended) == {JobState.ARCHIVED: len(scripts)}
    assert [job.ref for job in ended if not harness.is_safe_once(job.ref)] == []


@pytest.mark.parametrize("provider", OTHERS)
def test_a_job_that_is_polled_needs_no_callback(harness: Harness, provider: Provider) -> None:
    job = harness.finished(harness.post(provider, Mode.POLL, delay=0.2).ref)
    assert (job.state, harness.is_safe_once(job.ref)) == (JobState.ARCHIVED, True)
    assert {source for source, _ in harness.sources_and_proofs(job.ref)} == {"poll"}


@pytest.mark.parametrize("provider", OTHERS)
@pytest.mark.parametrize("callback", ["once", "lost"])
def test_a_failure_ends_the_job_with_its_reason(
    harness: Harness, provider: Provider, callback: str
) -> None:
    failed = {"fail": "error", "callback": callback}
    job = harness.finished(harness.submit(provider, failed).ref)
    assert (job.state, job.reason) == (JobState.FAILED, Reason.PROVIDER_ERROR)
    moderated = {"fail": "input_moderation", "callback": callback}
    job = harness.finished(harness.submit(provider, moderated).ref)
    assert job.reason in {Reason.INPUT_MODERATION, Reason.OUTPUT_MODERATION}


@pytest.mark.parametrize("provider", OTHERS)
def test_a_refusal_is_told_in_the_provider_s_words(harness: Harness, provider: Provider) -> None:
    job = harness.submit(provider, refuse="not with this model")
    assert (job.state, job.reason) == (JobState.FAILED, Reason.REFUSED)
    assert "not with this model" in job.message


# Pictures inside the report.


@pytest.mark.parametrize("provider", OTHERS)
@pytest.mark.parametrize("callback", ["once", "lost"])
def test_a_picture_inside_the_report_is_archived(
    harness: Harness, provider: Provider, callback: str
) -> None:
    inside = {"report": {"results": "data_url"}, "bytes": 100_000, "callback": callback}
    job = harness.finished(harness.submit(provider, inside).ref)
    assert (job.state, job.reason) == (JobState.ARCHIVED, None)
    assert harness.is_safe_once(job.ref)
    assert [asset.url for asset in harness.assets(job.ref)] == ["delivery:0"]


def test_a_picture_that_makes_its_callback_too_large_comes_by_a_poll(harness: Harness) -> None:
    """CALLBACK_MAX_BYTES is for callbacks; the provider's own answer may be larger."""
    inside = {"report": {"results": "data_url"}, "bytes": 1_500_000, "callback": {"retries": 0}}
    job = harness.finished(harness.submit(Provider.FAL, inside).ref)
    assert (job.state, harness.is_safe_once(job.ref)) == (JobState.ARCHIVED, True)
    assert {source for source, _ in harness.sources_and_proofs(job.ref)} == {"poll"}


def test_a_picture_inside_the_report_that_is_too_large_can_be_archived_later(
    tmp_path: Path,
) -> None:
    inside = {"report": {"results": "data_url"}, "bytes": 50_000}
    with running(tmp_path, FETCH_MAX_BYTES="49999") as harness:
        job = harness.finished(harness.submit(Provider.REPLICATE, inside).ref)
        assert (job.state, "FETCH_MAX_BYTES" in job.message) == (JobState.FAILED, True)
        harness.restart(FETCH_MAX_BYTES="50000")
        harness.services.operator.retry(job.ref)
        job = harness.finished(job.ref)
        assert (job.state, harness.is_safe_once(job.ref)) == (JobState.ARCHIVED, True)


def test_a_file_that_needs_the_key_is_downloaded_with_it(harness: Harness) -> None:
    job = harness.finished(harness.submit(Provider.REPLICATE, file="private").ref)
    assert (job.state, harness.is_safe_once(job.ref)) == (JobState.ARCHIVED, True)
    assert ["/replicate/v1/files/" in asset.url for asset in harness.assets(job.ref)] == [True]


# Malformed callbacks.


@pytest.mark.parametrize("provider", OTHERS)
def test_a_malformed_callback_is_stored_and_answered_400(
    harness: Harness, provider: Provider
) -> None:
    job = harness.submit(provider, callback="lost", delay=0.3)
    ticket, _ = harness.services.tickets.issue(job.ref, provider)
    url = f"{harness.services.settings.public_url}/callback/{ticket}"
    for body in (b"", b"{", b"<html>", b"[1]"):
        assert requests.post(url, data=body, timeout=10).status_code == 400
    assert harness.finished(job.ref).state is JobState.ARCHIVED
    verdicts = [row.verdict for row in harness.deliveries(job.ref)]
    assert verdicts.count("unreadable") == 4


@pytest.mark.parametrize("provider", OTHERS)
def test_a_ticket_is_good_for_its_own_provider_and_job_only(
    harness: Harness, provider: Provider
) -> None:
    job = harness.submit(provider, callback="lost", delay=0.2)
    ticket, _ = harness.services.tickets.issue(job.ref, provider)
    root = f"{harness.services.settings.public_url}/callback/"
    for other in (ticket.replace(f"-{provider}", ""), ticket[:-1] + "A", ticket.lower()):
        if other != ticket:
            assert requests.post(root + other, data=b"{}", timeout=10).status_code == 404
    assert harness.finished(job.ref).state is JobState.ARCHIVED
    assert "callback" not in {source for source, _ in harness.sources_and_proofs(job.ref)}


@pytest.mark.parametrize("provider", SIGNING)
def test_a_genuine_callback_about_another_job_is_never_taken_for_this_one(
    harness: Harness, provider: Provider
) -> None:
    """A customer of the provider who has our ticket can have genuine messages sent to it."""
    job, other = (harness.submit(provider, callback="lost", delay=0.2) for _ in range(2))
    until(lambda: harness.sandbox.task(other.provider_id or "")["status"] != "running", what="it")
    task = harness.services  # the sandbox signs the other task for this job's ticket
    data, headers = harness.sandbox.signed(other.provider_id or "")
    ticket, _ = task.tickets.issue(job.ref, provider)
    url = f"{task.settings.public_url}/callback/{ticket}"
    assert requests.post(url, data=data, headers=headers, timeout=10).status_code == 200
    assert harness.finished(job.ref).state is JobState.ARCHIVED
    assert harness.is_safe_once(job.ref)
    assert harness.job(job.ref).provider_id != other.provider_id


# Restarts.


@pytest.mark.parametrize("provider", OTHERS)
def test_a_restart_between_two_attempts_loses_nothing(tmp_path: Path, provider: Provider) -> None:
    with running(tmp_path) as harness:
        harness.port.serve(None)
        job = harness.submit(provider, callback={"retries": 20, "pause": 0.2})
        task_id = job.provider_id or ""
        until(lambda: harness.sandbox.task(task_id)["callbacks"], what="the first attempt")
        harness.restart()
        job = harness.finished(job.ref)
        assert (job.state, harness.is_safe_once(job.ref)) == (JobState.ARCHIVED, True)


# Other ways in.


@pytest.mark.parametrize("provider", OTHERS)
def test_a_job_is_posted_by_the_api(harness: Harness, provider: Provider) -> None:
    token = {"Authorization": f"Bearer {harness.services.admin_token}"}
    url = f"{harness.services.settings.public_url}/api/jobs"
    job = {"prompt": "a fox", "model": MODELS[provider], "provider": provider}
    answer = requests.post(url, json=job, headers=token, timeout=10)
    assert (answer.status_code, answer.json()["provider"]) == (201, provider)
    ref = answer.json()["ref"]
    assert harness.finished(ref).state is JobState.ARCHIVED
    shown = requests.get(f"{url}/{ref}/deliveries", headers=token, timeout=10).json()
    told = [(one["source"], one["proof"]) for one in shown["deliveries"]]
    assert told == harness.sources_and_proofs(ref)
    with harness.services.store.open(manifest_key(ref)) as file:
        manifest = json.loads(file.read())
    assert [(one["source"], one["proof"]) for one in manifest["deliveries"]] == told
