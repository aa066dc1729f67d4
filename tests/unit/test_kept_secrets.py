"""The callback secrets in DATA_DIR: files for their owner only, read again when they change."""

import stat
from pathlib import Path

import pytest

from receiver.errors import ConfigurationError, TicketError
from receiver.ingest.kept_secrets import KeptSecrets
from receiver.ingest.tickets import Tickets, fingerprint

REF = "01JZ2Q7V3N0123456789ABCDEF"


def test_the_first_secret_is_generated_and_a_rotation_puts_a_new_one_before_it(
    tmp_path: Path,
) -> None:
    kept = KeptSecrets(tmp_path)
    (first,) = kept.secrets()
    kept.rotate()
    kept.rotate()
    third, second, last = kept.secrets()
    assert (last, len({first, second, third})) == (first, 3)
    assert (tmp_path / "secrets/callback").read_text() == f"{third}\n", "as the release before"
    for name in ("callback", "callback.old"):
        assert stat.S_IMODE((tmp_path / "secrets" / name).stat().st_mode) == 0o600
    kept.remove([second, third])
    assert kept.secrets() == (third, first), "the first one stays"
    kept.remove([first])
    assert not (tmp_path / "secrets/callback.old").exists()


def test_a_process_that_runs_signs_and_verifies_with_the_new_secret_at_once(tmp_path: Path) -> None:
    web, submit = (Tickets(newest=KeptSecrets(tmp_path).secrets) for _ in range(2))
    before = submit.sign(REF)
    rotated = KeptSecrets(tmp_path)
    rotated.rotate()
    after, signer = submit.issue(REF)
    assert after != before
    assert (web.ref(before), web.ref(after)) == (REF, REF)
    assert web.fingerprints[0] == signer == fingerprint(rotated.secrets()[0])
    rotated.remove(rotated.secrets())
    with pytest.raises(TicketError):
        web.ref(before)
    assert web.ref(after) == REF


def test_secrets_that_do_not_change_are_not_read_again(tmp_path: Path) -> None:
    kept = KeptSecrets(tmp_path)
    assert kept.secrets() is kept.secrets()


def test_a_secret_that_disappears_stays_valid_where_it_was_read(tmp_path: Path) -> None:
    kept = KeptSecrets(tmp_path)
    before = kept.secrets()
    (tmp_path / "secrets/callback").unlink()
    assert kept.secrets() == before
    assert not (tmp_path / "secrets/callback").exists(), "no other secret is generated meanwhile"


def test_secrets_that_cannot_be_read_or_changed_are_named_with_the_remedy(tmp_path: Path) -> None:
    kept = KeptSecrets(tmp_path)
    kept.secrets()
    (tmp_path / "secrets/callback.old").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"callback\.old cannot be read .*; restore them"):
        KeptSecrets(tmp_path).secrets()
    (tmp_path / "secrets/callback.old").unlink()
    (tmp_path / "secrets/callback.lock").mkdir()
    with pytest.raises(ConfigurationError, match=r"cannot be changed .*; make it writable"):
        kept.rotate()


def test_a_fingerprint_is_short_and_is_no_part_of_a_ticket() -> None:
    secret = "a-secret-of-the-operator"
    assert len(fingerprint(secret)) == 6
    assert fingerprint(secret) == fingerprint(secret) != fingerprint(f"{secret}s")
    assert fingerprint(secret) not in Tickets([secret]).sign(REF)
