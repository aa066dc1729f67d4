"""What is proved about a callback of a provider that signs: one level of the trust ladder."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

import structlog

from receiver.errors import LedgerError
from receiver.ingest.tickets import Tickets
from receiver.ledger.database import Database
from receiver.ledger.user_ids import (
    MISMATCHES_FOR,
    Learning,
    Mismatch,
    find_mismatches,
    learn_user_id,
    learnt_user_id,
    note_mismatch,
)
from receiver.model import Proof, Provider
from receiver.providers.dialect import Account, Headers, Keys, Verified
from receiver.providers.keyring import Keyring
from receiver.providers.registry import DIALECTS
from receiver.telemetry.metrics import PROOFS

# Seconds between two notes about callbacks of the same account.
_NOTE_PAUSE = 60.0

log = structlog.get_logger(__name__)


class Proofs:
    """Verifies callbacks. ``user_ids`` are those of the settings, by provider.

    Learnt user ids are kept by the keys of ``accounts``. ``now`` returns seconds since the epoch.
    """

    def __init__(
        self,
        tickets: Tickets,
        keyring: Keyring,
        database: Database,
        user_ids: Mapping[Provider, str],
        accounts: Mapping[Provider, Account],
        now: Callable[[], float],
    ) -> None:
        self._tickets = tickets
        self._keyring = keyring
        self._database = database
        self._user_ids = user_ids
        self._keys = {provider: account.fingerprint for provider, account in accounts.items()}
        self._now = now
        self._learnt: dict[Provider, str] = {}
        self._noted: dict[str, float] = {}

    def of(self, provider: Provider, ref: str, headers: Headers, body: bytes) -> Proof:
        """Return what is proved about a callback that came with a valid ticket of the job.

        Nothing here refuses a callback: if it cannot be verified now, the provider is polled.
        """
        try:
            proof = self._proof(provider, ref, headers, body)
        except Exception:
            # A bug of ours must not make a report fail: it becomes a hint.
            log.exception("callback not verified", ref=ref, provider=provider)
            proof = Proof.NONE
        PROOFS.labels(provider, proof).inc()
        if proof is Proof.NONE:
            log.warning("callback with a wrong signature", ref=ref, provider=provider)
        return proof

    def mismatches(self) -> list[Mismatch]:
        """Return genuine callbacks of the last day about our tasks, of an account not accepted.

        Raise LedgerError.
        """
        since = self._now() - MISMATCHES_FOR
        return [
            one
            for one in self._database.read(find_mismatches)
            if one.at > since and one.user_id != self._user_id(one.provider)
        ]

    def _proof(self, provider: Provider, ref: str, headers: Headers, body: bytes) -> Proof:
        found = self._verified(provider, ref, headers, body)
        if found.user_id is None or found.provider_id is None:
            return found.proof
        if found.proof is Proof.NONE:
            self._note(ref, found.provider_id, Mismatch(provider, found.user_id, self._now()))
        elif self._is_ours(provider, ref, found.provider_id, found.user_id):
            return Proof.BODY
        return found.proof

    def _verified(self, provider: Provider, ref: str, headers: Headers, body: bytes) -> Verified:
        verify, now = DIALECTS[provider].verify, self._now()
        if DIALECTS[provider].has_job_secrets:
            return verify(headers, body, Keys(self._tickets.job_secrets(ref)), now)
        keys = Keys(self._keyring.values(provider), self._user_id(provider))
        found = verify(headers, body, keys, now)
        if found.proof is not Proof.NONE or found.user_id is not None:
            return found
        renewed = replace(keys, values=self._keyring.renewed(provider))
        return found if renewed == keys else verify(headers, body, renewed, now)

    def _user_id(self, provider: Provider) -> str | None:
        """Return our account's id: that of the settings, or what was learnt for our key."""
        if given := self._user_ids.get(provider) or self._learnt.get(provider):
            return given
        key = self._keys.get(provider, "")
        try:
            found = self._database.read(lambda open_: learnt_user_id(open_, provider, key))
        except LedgerError:
            return None  # the delivery cannot be stored either
        if found is not None:
            self._learnt[provider] = found
        return found

    def _is_ours(self, provider: Provider, ref: str, provider_id: str, user_id: str) -> bool:
        """Learn the account's id from a task that the provider named in answer to our submit."""
        task = Learning(provider, self._keys.get(provider, ""), ref, provider_id, user_id)
        try:
            return self._database.write(lambda open_: learn_user_id(open_, task, self._now()))
        except LedgerError:
            return False

    def _note(self, ref: str, provider_id: str, found: Mismatch) -> None:
        """Record that a genuine callback about our task named an account that is not accepted.

        It is written rarely for each account, because it is a write. If the task is not ours,
        another customer has a ticket of ours; that is only logged.
        """
        if found.at - self._noted.get(found.user_id, 0.0) < _NOTE_PAUSE:
            return
        with suppress(LedgerError):
            is_ours = self._database.write(
                lambda open_: note_mismatch(open_, ref, provider_id, found)
            )
            if is_ours:
                self._noted = {found.user_id: found.at}
            log.warning(
                "genuine callback of another account",
                ref=ref,
                provider=found.provider,
                user_id=found.user_id,
                about_our_task=is_ours,
            )
