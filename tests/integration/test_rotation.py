"""The rotation of callback secrets: an old one is accepted until every job that it signed is over.

A secret that was dropped too early is reported.
"""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from api_jobs import change_ledger
from commands import invoke
from ledgers import BASE_URL, LedgerHarness
from processes import Finished
from waiting import until
from web_client import FAILED, WebClient, web_client

from receiver.doctor.examine import Status, examine
from receiver.ingest.kept_secrets import KeptSecrets
from receiver.ingest.tickets import Tickets, fingerprint
from receiver.maintenance.rotation import ACCEPTED_FOR, Rotation, retire_periodically
from receiver.model import Mode, Submission
from receiver.services import Services
from receiver.settings import Settings
from receiver.web.health import health_checks
from submitter.sandbox import Sandbox

OLD, NEW = "the-old-secret-0123456789", "the-new-secret-0123456789"


@pytest.fixture
def kept(tmp_path: Path) -> KeptSecrets:
    """Return the secrets of a DATA_DIR; the first one was generated long before the clock."""
    found = KeptSecrets(tmp_path)
    found.secrets()
    age(found)
    return found


def age(kept: KeptSecrets) -> None:
    """Make the last rotation older than any time that a replaced secret is accepted for."""
    os.utime(kept.path, (1.0, 1.0))


def signed_by(ledger: LedgerHarness, signer: str | None, mode: Mode = Mode.WEBHOOK) -> str:
    """Submit a job whose ticket was signed with this secret."""
    submission = Submission("a fox", "gpt-image-1.5", {}, mode)
    return ledger.jobs.submit(submission, BASE_URL, signer=signer).ref


def prints(kept: KeptSecrets) -> list[str]:
    return [fingerprint(secret) for secret in kept.secrets()]


@pytest.mark.both_databases
def test_an_old_secret_is_accepted_until_every_job_that_it_signed_is_over(
    ledger: LedgerHarness, kept: KeptSecrets
) -> None:
    rotation = Rotation(kept, ledger.signers, ledger.clock, lambda: None)
    (first,) = prints(kept)
    refs = [signed_by(ledger, first) for _ in range(2)]
    assert rotation.rotate() == []
    age(kept)
    assert rotation.retire() == []
    ledger.jobs.expire(refs[0], "no report")
    assert rotation.retire() == []
    ledger.deliver(refs[1], b'{"id": "t", "status": "failed"}')
    assert rotation.retire() == [first]
    assert len(prints(kept)) == 1


def test_a_secret_that_was_just_replaced_is_accepted_because_a_submit_may_be_using_it(
    ledger: LedgerHarness, kept: KeptSecrets
) -> None:
    rotation = Rotation(kept, ledger.signers, ledger.clock, lambda: None)
    rotation.rotate()
    os.utime(kept.path, (0, ledger.clock() - ACCEPTED_FOR + 1))
    assert rotation.retire() == []
    ledger.clock.advance(2)
    assert len(rotation.retire()) == 1


@pytest.mark.parametrize(
    ("signer", "mode", "removed"), [(None, Mode.WEBHOOK, 0), (None, Mode.POLL, 1)]
)
def test_a_job_whose_secret_is_not_known_needs_them_all_unless_it_has_no_ticket(
    ledger: LedgerHarness, kept: KeptSecrets, signer: str | None, mode: Mode, removed: int
) -> None:
    signed_by(ledger, signer, mode)
    rotation = Rotation(kept, ledger.signers, ledger.clock, lambda: None)
    rotation.rotate()
    age(kept)
    assert len(rotation.rotate()) == removed


def test_a_secret_that_others_know_is_dropped_at_once(
    ledger: LedgerHarness, kept: KeptSecrets
) -> None:
    (first,) = prints(kept)
    signed_by(ledger, first)
    rotation = Rotation(kept, ledger.signers, ledger.clock, lambda: None)
    rotation.rotate()
    assert rotation.remove_old() == [first]
    assert len(prints(kept)) == 1


def test_the_worker_removes_what_is_over(
    ledger: LedgerHarness, kept: KeptSecrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.maintenance.rotation.EVERY", 0.01)
    Rotation(kept, ledger.signers, ledger.clock, lambda: None).rotate()
    age(kept)
    with retire_periodically(Rotation(kept, ledger.signers, ledger.clock, lambda: None)):
        until(lambda: len(kept.secrets()) == 1, what="the removal")


# The command.


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Run a provider."""
    with Sandbox() as sandbox:
        yield sandbox


def environment(ledger_url: str, folder: Path, **more: str) -> dict[str, str]:
    url = ledger_url.replace("postgresql+psycopg://", "postgresql://")
    common = {"DATA_DIR": str(folder / "data"), "DATABASE_URL": url, **more}
    if url.startswith("sqlite"):
        return common
    archive = f"file://{folder}/data/archive"
    return {"ADMIN_TOKEN": "a-token-of-the-test", "ARCHIVE_URL": archive, **common}


def run(environ: dict[str, str], *arguments: str) -> Finished:
    return invoke(["receiver", "secrets", *arguments], environ, folder=Path(environ["DATA_DIR"]))


def test_a_running_service_takes_callbacks_of_both_secrets_after_the_command(
    sqlite_url: str, tmp_path: Path
) -> None:
    environ = environment(sqlite_url, tmp_path)
    with web_client(tmp_path / "data", environ) as web:
        before = web.ticket()
        done = run(environ, "rotate")
        after = web.ticket()
        assert (done.status, done.err) == (0, "")
        new, old = web.services.tickets.fingerprints
        assert done.out.splitlines() == [
            f"{new}   signs           no unfinished jobs",
            f"{old}   accepted        its jobs are over",
        ]
        assert [web.callback(ticket, FAILED).status_code for ticket in (before, after)] == [200] * 2
        secrets = web.services.kept_secrets.secrets()
        assert not any(secret in done.out for secret in secrets)
        assert run(environ, "rotate", "--drop-old").out.count("removed") == 2
        assert web.callback(before, FAILED).status_code == 404


@pytest.mark.both_databases
def test_secrets_of_the_variable_are_not_changed_and_the_steps_are_printed(
    ledger_url: str, tmp_path: Path
) -> None:
    environ = environment(ledger_url, tmp_path, CALLBACK_SECRETS=f"{NEW},{OLD}")
    with closing(Services(Settings.load(environ)).open()) as services:
        services.jobs.submit(
            Submission("a fox", "gpt-image-1.5", {}), BASE_URL, signer=fingerprint(OLD)
        )
    done = run(environ, "rotate")
    assert (done.status, len(done.out.strip())) == (0, 43), "a new secret and nothing else"
    assert "1. OLD,NEW " in done.err
    assert f"{fingerprint(OLD)}   accepted        1 unfinished jobs, the last until" in done.err
    assert (OLD in done.err, NEW in done.err) == (False, False)
    listed = run({**environ, "CALLBACK_SECRETS": NEW}, "list").out
    assert f"{fingerprint(NEW)}   signs           no unfinished jobs" in listed
    assert f"{fingerprint(OLD)}   NOT configured  1 unfinished jobs" in listed


def test_without_a_ledger_nothing_is_rotated(tmp_path: Path) -> None:
    done = run({"DATA_DIR": str(tmp_path)}, "rotate")
    assert (done.status, "no ledger in" in done.err) == (2, True)
    assert not (tmp_path / "secrets").exists()


def test_who_lists_secrets_of_a_wrong_folder_generates_none(
    sqlite_url: str, tmp_path: Path
) -> None:
    (tmp_path / "wrong").mkdir()
    done = run({**environment(sqlite_url, tmp_path), "DATA_DIR": str(tmp_path / "wrong")}, "list")
    assert (done.status, "no callback secret in" in done.err) == (2, True), done
    assert not list((tmp_path / "wrong").rglob("callback"))


# A secret that was dropped too early.


def test_a_submit_records_which_secret_signed_the_ticket(
    sqlite_url: str, tmp_path: Path, sandbox: Sandbox
) -> None:
    provider = {
        "GRSAI_BASE_URL": sandbox.url,
        "GRSAI_API_KEY": "sk",
        "PUBLIC_URL": "http://us.test",
    }
    environ = environment(sqlite_url, tmp_path, CALLBACK_SECRETS=f"{NEW},{OLD}", **provider)
    with closing(Services(Settings.load(environ)).open()) as services:
        for mode in (Mode.WEBHOOK, Mode.POLL):
            services.submit_service.post(Submission("a fox", "gpt-image-1.5", {}, mode))
        (signed,) = services.signers.unfinished()
        assert (signed.signer, signed.unfinished, signed.waiting) == (fingerprint(NEW), 1, 1)


@pytest.fixture
def early(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebClient]:
    """Open the application with one secret, beside a waiting job that another one signed."""
    monkeypatch.setattr("receiver.web.health_checks.LIFETIMES", _NO_LIFETIMES)
    environ = environment(sqlite_url, tmp_path, CALLBACK_SECRETS=NEW)
    with web_client(tmp_path / "data", environ) as web:
        submission = Submission("a fox", "gpt-image-1.5", {})
        ref = web.services.jobs.submit(submission, BASE_URL, signer=fingerprint(OLD)).ref
        assert web.callback(Tickets([OLD]).sign(ref), FAILED).status_code == 404
        yield web


_NO_LIFETIMES = dict.fromkeys(("ledger", "archive", "figures", "disk"), 0.0)


def of_secrets(web: WebClient) -> dict[str, object]:
    found: dict[str, object] = web.client.get("/status", headers=web.admin).json["checks"][
        "secrets"
    ]
    return found


def test_a_secret_that_was_dropped_too_early_is_reported_by_status_and_doctor(
    early: WebClient,
) -> None:
    found = of_secrets(early)
    assert (found["ok"], found["refused_jobs"]) == (False, 1)
    assert f"(1 with {fingerprint(OLD)}): their callbacks are refused" in str(found["detail"])
    assert "put the removed secret back" in str(found["detail"])
    doctor = {one.name: one for one in examine(early.services)}["secrets"]
    assert (doctor.status, fingerprint(OLD) in doctor.detail) == (Status.FAILED, True)
    assert "put the removed secret back" in doctor.remedy
    change_ledger(early, "UPDATE jobs SET round = 1")
    assert of_secrets(early)["ok"] is True, "a job that was retried does not wait for a callback"


def test_it_is_a_fault_that_the_web_logs(early: WebClient) -> None:
    early.client.get("/status")
    with early.client.application.app_context():
        assert "secrets" in health_checks().read_faults()


def test_with_the_right_secrets_nothing_is_reported(sqlite_url: str, tmp_path: Path) -> None:
    environ = environment(sqlite_url, tmp_path, CALLBACK_SECRETS=f"{NEW},{OLD}")
    with web_client(tmp_path / "data", environ) as web:
        web.services.jobs.submit(
            Submission("a fox", "gpt-image-1.5", {}), BASE_URL, signer=fingerprint(OLD)
        )
        assert of_secrets(web) | {"age_seconds": 0} == {
            "ok": True,
            "age_seconds": 0,
            "detail": "ok",
            "refused_jobs": 0,
        }
        doctor = {one.name: one for one in examine(web.services)}["secrets"]
        assert (
            doctor.detail
            == f"{fingerprint(NEW)} signs callback URLs, {fingerprint(OLD)} accepted too"
        )
