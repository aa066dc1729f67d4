"""What is proved about a callback of a provider that signs: one level of the trust ladder."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import structlog

from receiver.errors import LedgerError
from receiver.ingest.tickets import Tickets
from receiver.ledger.database import Database
from receiver.ledger.user_ids import learn_user_id, learnt_user_id
from receiver.model import Proof, Provider
from receiver.providers.dialect import Headers, Keys, Verified
from receiver.providers.keyring import Keyring
from receiver.providers.registry import DIALECTS
from receiver.telemetry.metrics import PROOFS

log = structlog.get_logger(__name__)


class Proofs:
    """Verifies callbacks. ``user_ids`` are those of the settings, by provider.

    ``now`` returns seconds since the epoch.
    """

    def __init__(
        self,
        tickets: Tickets,
        keyring: Keyring,
        database: Database,
        user_ids: Mapping[Provider, str],
        now: Callable[[], float],
    ) -> None:
        self._tickets = tickets
        self._keyring = keyring
        self._database = database
        self._user_ids = dict(user_ids)
        self._now = now

    def of(self, provider: Provider, ref: str, headers: Headers, body: bytes) -> Proof:
        """Return what is proved about a callback that came with a valid ticket of the job.

        Nothing here keeps a callback out: what cannot be verified now is read back.
        """
        try:
            proof = self._proof(provider, ref, headers, body)
        except Exception:
            # A bug of ours must not keep a report out: it is a hint then.
            log.exception("callback not verified", ref=ref, provider=provider)
            proof = Proof.NONE
        PROOFS.labels(provider, proof).inc()
        if proof is Proof.NONE:
            log.warning("callback with a wrong signature", ref=ref, provider=provider)
        return proof

    def _proof(self, provider: Provider, ref: str, headers: Headers, body: bytes) -> Proof:
        found = self._verified(provider, ref, headers, body)
        if found.user_id is not None and self._is_ours(provider, ref, found):
            return Proof.BODY
        return found.proof

    def _verified(self, provider: Provider, ref: str, headers: Headers, body: bytes) -> Verified:
        verify, now = DIALECTS[provider].verify, self._now()
        if DIALECTS[provider].has_job_secrets:
            return verify(headers, body, Keys(self._tickets.job_secrets(ref)), now)
        keys = Keys(self._keyring.values(provider), self._user_id(provider))
        found = verify(headers, body, keys, now)
        if found.proof is not Proof.NONE:
            return found
        renewed = replace(keys, values=self._keyring.renewed(provider))
        return found if renewed == keys else verify(headers, body, renewed, now)

    def _user_id(self, provider: Provider) -> str | None:
        if provider not in self._user_ids:
            try:
                learnt = self._database.read(lambda open_: learnt_user_id(open_, provider))
            except LedgerError:
                return None  # the delivery cannot be stored either
            if learnt is None:
                return None
            self._user_ids[provider] = learnt
        return self._user_ids[provider]

    def _is_ours(self, provider: Provider, ref: str, found: Verified) -> bool:
        """Learn the account's id from a task that the provider named in answer to our submit."""
        user_id, provider_id = found.user_id or "", found.provider_id or ""
        try:
            return self._database.write(
                lambda open_: learn_user_id(open_, provider, ref, provider_id, user_id)
            )
        except LedgerError:
            return False
