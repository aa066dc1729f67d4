"""The keys that verify callbacks: fetched, kept, rotated, unavailable; and the learnt account."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from ledgers import Clock as ManualClock
from other_providers import OTHERS, Harness, running
from signing import FAL_KEY, OTHER_FAL_KEY, Sender, body_of, public_key
from sqlalchemy import insert

from receiver.doctor.examine import Status, examine
from receiver.errors import ProviderUnavailableError
from receiver.ledger.claims import Claimed
from receiver.ledger.tables import identity
from receiver.model import JobState, Proof, Provider
from receiver.providers.bfl.dialect import Bfl
from receiver.providers.client import Clients, ProviderClient
from receiver.providers.dialect import Account
from receiver.providers.fal.dialect import Fal
from receiver.providers.keyring import LIFETIME, PAUSE, Keyring
from submitter.cli.credits import _credits as left_at
from submitter.sandbox.stand_ins.fal import USER_ID
from submitter.sandbox.stand_ins.stand_in import FOREIGN_URL

FIRST, SECOND = public_key(FAL_KEY), public_key(OTHER_FAL_KEY)


class KeySource(ProviderClient):
    """A client whose keys are ``keys``; None: they cannot be fetched."""

    def __init__(self) -> None:
        super().__init__(Fal(), Account("key", "https://queue.example", "https://keys.example"))
        self.keys: tuple[str, ...] | None = (FIRST,)
        self.fetched = 0

    def fetch_keys(self) -> tuple[str, ...]:
        self.fetched += 1
        if self.keys is None:
            raise ProviderUnavailableError("away")
        return self.keys


@pytest.fixture
def source() -> KeySource:
    return KeySource()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def keyring(source: KeySource, folder: Path, clock: ManualClock) -> Keyring:
    return Keyring(Clients({Provider.FAL: source}), {}, folder, clock)


def test_keys_are_fetched_once_and_again_when_they_are_old(
    source: KeySource, clock: ManualClock, tmp_path: Path
) -> None:
    keys = keyring(source, tmp_path, clock)
    assert [keys.values(Provider.FAL) for _ in range(3)] == [(FIRST,)] * 3
    assert source.fetched == 1
    clock.advance(LIFETIME + 1)
    keys.values(Provider.FAL)
    assert source.fetched == 2


def test_kept_keys_serve_a_start_without_the_provider(
    source: KeySource, clock: ManualClock, tmp_path: Path
) -> None:
    keyring(source, tmp_path, clock).values(Provider.FAL)
    source.keys = None
    clock.advance(30 * 24 * 3600)
    assert keyring(source, tmp_path, clock).values(Provider.FAL) == (FIRST,)
    assert (tmp_path / "fal.json").stat().st_mode & 0o077 == 0


def test_without_keys_nothing_is_verified_and_the_fetch_is_repeated_only_after_a_pause(
    source: KeySource, clock: ManualClock, tmp_path: Path
) -> None:
    source.keys = None
    keys = keyring(source, tmp_path, clock)
    assert [keys.values(Provider.FAL) for _ in range(5)] == [()] * 5
    assert source.fetched == 1
    clock.advance(PAUSE + 1)
    source.keys = (FIRST,)
    assert keys.values(Provider.FAL) == (FIRST,)


def test_a_rotation_is_noticed_by_a_signature_that_fits_no_key(
    source: KeySource, clock: ManualClock, tmp_path: Path
) -> None:
    keys = keyring(source, tmp_path, clock)
    keys.values(Provider.FAL)
    source.keys = (FIRST, SECOND)
    assert keys.renewed(Provider.FAL) == (FIRST,)  # fetched a moment ago
    clock.advance(PAUSE + 1)
    assert keys.renewed(Provider.FAL) == (FIRST, SECOND)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"keys": 7}', '{"keys": [], "at": "x"}'])
def test_a_damaged_file_of_keys_is_as_good_as_none(
    source: KeySource, clock: ManualClock, tmp_path: Path, content: str
) -> None:
    (tmp_path / "fal.json").write_text(content)
    assert keyring(source, tmp_path, clock).values(Provider.FAL) == (FIRST,)


def test_given_secrets_are_never_fetched(tmp_path: Path, clock: ManualClock) -> None:
    given = {Provider.REPLICATE: ("whsec_x", "whsec_y")}
    keys = Keyring(Clients({}), given, tmp_path, clock)
    assert (
        keys.values(Provider.REPLICATE)
        == keys.renewed(Provider.REPLICATE)
        == given[Provider.REPLICATE]
    )
    assert keys.values(Provider.FAL) == ()


# In the service.


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    with running(tmp_path) as found:
        yield found


def keys_of_fal(harness: Harness, *, away: bool, rotate: bool = False) -> None:
    asked = {"fal_away": away, "rotate": "fal" if rotate else ""}
    requests.post(f"{harness.sandbox.url}/sandbox/keys", json=asked, timeout=10)


def first_proof(harness: Harness, **script: object) -> str | None:
    # The answer to the submit comes first: our account is learnt from the id in it.
    job = harness.finished(harness.submit(Provider.FAL, {"delay": 0.5, **script}).ref)
    assert (job.state, harness.is_safe_once(job.ref)) == (JobState.ARCHIVED, True)
    return harness.sources_and_proofs(job.ref)[0][1]


def test_our_account_at_fal_is_learnt_from_the_first_task_and_pinned(harness: Harness) -> None:
    assert first_proof(harness) == Proof.BODY
    assert first_proof(harness, signature="foreign") == Proof.NONE
    harness.restart()
    assert first_proof(harness, signature="foreign") == Proof.NONE
    assert first_proof(harness) == Proof.BODY


def test_an_account_is_never_learnt_from_a_request_that_is_not_ours(harness: Harness) -> None:
    assert first_proof(harness, signature="foreign") == Proof.TASK
    assert first_proof(harness) == Proof.BODY
    assert first_proof(harness, signature="foreign") == Proof.NONE
    assert harness.services.proofs.mismatches() == []


def test_another_account_is_learnt_when_the_key_changes(harness: Harness) -> None:
    assert first_proof(harness) == Proof.BODY
    harness.restart(FAL_KEY="a-key-of-another-account")
    assert first_proof(harness) == Proof.TASK  # a task of the key before, for all we know
    harness.sandbox.stand_ins.fal.user_id = "another-account"
    assert first_proof(harness) == Proof.BODY
    assert first_proof(harness, signature="foreign") == Proof.NONE
    harness.restart(FAL_KEY="any")  # back, and what was learnt for this key is still known
    harness.sandbox.stand_ins.fal.user_id = USER_ID
    assert first_proof(harness) == Proof.BODY


def test_what_a_release_before_learnt_is_learnt_anew(harness: Harness) -> None:
    earlier = insert(identity).values(name="fal_user_id", value="an account of any key")
    harness.services.database.write(lambda connection: connection.execute(earlier))
    assert [first_proof(harness), first_proof(harness)] == [Proof.TASK, Proof.BODY]


def test_a_wrong_user_id_in_the_settings_is_named_by_doctor_and_status(harness: Harness) -> None:
    assert first_proof(harness) == Proof.BODY
    harness.restart(FAL_USER_ID="a-typing-error")
    assert first_proof(harness) == Proof.NONE
    (finding,) = (one for one in examine(harness.services) if one.name == "fal")
    assert (finding.status, USER_ID in finding.detail) == (Status.FAILED, True)
    assert "set FAL_USER_ID to it" in finding.remedy
    url, token = harness.services.settings.public_url, harness.services.admin_token
    answer = requests.get(
        f"{url}/status", headers={"Authorization": f"Bearer {token}"}, timeout=10
    ).json()["checks"]["accounts"]
    assert (answer["ok"], answer["mismatches"][0]["user_id"]) == (False, USER_ID)
    harness.restart(FAL_USER_ID=USER_ID)  # corrected: nothing is wrong any more
    assert harness.services.proofs.mismatches() == []


def test_fal_s_public_keys_away_keep_no_callback_out(harness: Harness) -> None:
    keys_of_fal(harness, away=True)
    assert first_proof(harness) == Proof.TASK
    keys_of_fal(harness, away=False)
    harness.restart()
    assert first_proof(harness) == Proof.BODY
    keys_of_fal(harness, away=True)
    harness.restart()  # the kept keys are enough
    assert first_proof(harness) == Proof.BODY
    keys_of_fal(harness, away=False, rotate=True)
    harness.restart()
    assert first_proof(harness) == Proof.BODY


def test_an_account_is_never_learnt_from_a_task_that_a_callback_named(harness: Harness) -> None:
    """A customer of fal with a stolen ticket can have genuine messages sent to our callback."""
    job = harness.submit(Provider.FAL, answer="lost", callback="lost")
    theirs = "a-request-of-the-thief"
    sender = Sender(Provider.FAL, int(harness.services.now()), "the-thief")
    signed = sender.signed(body_of(Provider.FAL, theirs, (FOREIGN_URL,)), theirs)
    harness.sandbox.stand_ins.fal._keys.append(sender.fal_key)  # as fal signs for everybody
    ticket, _ = harness.services.tickets.issue(job.ref, Provider.FAL)
    url = f"{harness.services.settings.public_url}/callback/{ticket}"
    for _ in range(3):
        answer = requests.post(url, data=signed.body, headers=signed.headers, timeout=10)
        assert answer.status_code == 200
        harness.work()
    assert {proof for _, proof in harness.sources_and_proofs(job.ref)} == {Proof.TASK}
    assert harness.assets(job.ref) == []
    harness.sandbox.stand_ins.fal._keys.pop()
    assert first_proof(harness) == Proof.BODY
    harness.sandbox.stand_ins.fal._keys.append(sender.fal_key)
    assert requests.post(url, data=signed.body, headers=signed.headers, timeout=10).ok
    assert harness.sources_and_proofs(job.ref)[-1][1] == Proof.NONE
    assert harness.services.proofs.mismatches() == []  # it was not about a task of ours


def test_a_bug_of_ours_in_verifying_keeps_no_callback_out(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Bfl, "verify", fail)
    job = harness.finished(harness.submit(Provider.BFL).ref)
    assert (job.state, harness.is_safe_once(job.ref)) == (JobState.ARCHIVED, True)
    assert harness.sources_and_proofs(job.ref) == [("callback", Proof.NONE), ("poll", Proof.BODY)]


def test_replicate_s_secret_may_be_given_and_rotated(harness: Harness) -> None:
    secret = harness.sandbox.stand_ins.replicate.secret
    harness.restart(REPLICATE_WEBHOOK_SECRET=f"whsec_b2xkIHNlY3JldCBvZiBvdXJz,{secret}")
    job = harness.finished(harness.submit(Provider.REPLICATE).ref)
    assert harness.sources_and_proofs(job.ref) == [("callback", Proof.BODY)]
    harness.restart(REPLICATE_WEBHOOK_SECRET="whsec_b2xkIHNlY3JldCBvZiBvdXJz")
    job = harness.finished(harness.submit(Provider.REPLICATE).ref)
    assert harness.sources_and_proofs(job.ref)[0] == ("callback", Proof.NONE)
    assert harness.is_safe_once(job.ref)


def test_confirm_always_reads_back_what_is_proved_too(harness: Harness) -> None:
    harness.restart(CONFIRM="always")
    job = harness.finished(harness.submit(Provider.BFL).ref)
    assert harness.sources_and_proofs(job.ref) == [("callback", Proof.BODY), ("poll", Proof.BODY)]


def test_a_rotated_callback_secret_still_verifies_bfl_s_callbacks(tmp_path: Path) -> None:
    old, new = "the-old-secret-0123456789", "the-new-secret-0123456789"
    with running(tmp_path, CALLBACK_SECRETS=old) as harness:
        harness.port.serve(None)
        job = harness.submit(Provider.BFL, callback={"retries": 20, "pause": 0.2})
        harness.restart(CALLBACK_SECRETS=f"{new},{old}")
        job = harness.finished(job.ref)
        assert harness.sources_and_proofs(job.ref)[0] == ("callback", Proof.BODY)


def test_after_five_minutes_down_every_picture_of_bfl_is_archived_by_polling(
    harness: Harness,
) -> None:
    """BFL repeats a callback for 36 s, and its URLs live for ten minutes."""
    harness.restart(POLL_AFTER="120", POLL_INTERVAL="30")
    harness.port.serve(None)
    refs = [harness.submit(Provider.BFL, callback={"retries": 0}).ref for _ in range(5)]
    later = harness.services.now() + 300
    harness.services.close()
    harness.restart()
    assert {job.due_at is not None and job.due_at < later for job in map(harness.job, refs)} == {
        True
    }
    for ref in refs:  # it is five minutes later: each job is due
        job = harness.job(ref)
        harness.services.reconciler.reconcile_job(Claimed(job, job.claim or ""))
        (asset,) = harness.assets(ref)
        assert asset.expires_at - asset.announced_at == 600
        harness.work()
        job = harness.finished(ref)
        assert (job.state, harness.is_safe_once(ref)) == (JobState.ARCHIVED, True)
        assert harness.sources_and_proofs(ref) == [("poll", Proof.BODY)]


def test_the_doctor_tries_each_key_and_credits_asks_each_provider(harness: Harness) -> None:
    found = {one.name: one for one in examine(harness.services)}
    details = {name: found[name].detail for name in ("fal", "replicate", "bfl", "kie")}
    assert {found[name].status for name in details} == {Status.OK}
    assert details["fal"] == "FAL_KEY is set, not tried; 1 key to verify callbacks"
    assert details["replicate"].endswith("/replicate knows our key; 1 key to verify callbacks")
    assert "10000 credits left; callbacks are signed with a secret of each job" in details["bfl"]
    assert details["kie"].endswith("10000 credits left; 1 key to verify callbacks")
    left, status = left_at(harness.services, list(OTHERS))
    assert (status, list(left.values())) == (0, [None, None, 10000.0, 10000.0])


def test_the_doctor_names_the_setting_that_is_wrong(harness: Harness) -> None:
    wrong = f"http://127.0.0.1:{harness.sandbox.port}/nothing-here"
    harness.restart(BFL_BASE_URL=wrong, FAL_JWKS_URL=wrong, GRSAI_API_KEY="")
    found = {one.name: one for one in examine(harness.services)}
    assert found["provider"].status is Status.SKIPPED
    assert found["bfl"].status is found["fal"].status is Status.FAILED
    assert found["bfl"].remedy.startswith("correct BFL_API_KEY, or BFL_BASE_URL where")
    left, status = left_at(harness.services, [Provider.BFL, Provider.KIE])
    assert (status, left) == (1, {Provider.BFL: None, Provider.KIE: 10000.0})
