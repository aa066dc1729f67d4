"""Tickets: the signed part of a callback URL, valid for one job only.

A ticket is ``<ref>.<HMAC-SHA-256 of ref, base64url>`` (itsdangerous). For providers other than
GRSAI, the provider's name is signed too: ``<ref>-<provider>.<HMAC>``. So a callback can be read
without a query to the ledger. The first secret signs and all verify, so that no callback is lost
when secrets are rotated.
"""

import hmac
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from itsdangerous import Signer
from itsdangerous.encoding import base64_encode
from ulid import ULID

from receiver import clock
from receiver.errors import TicketError, TicketExpiredError
from receiver.model import Provider

# A ULID in upper case, the provider if it is not GRSAI, a dot, 32 bytes in base64url without
# padding.
_FORMAT = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}(-[a-z]{1,20})?\.[A-Za-z0-9_-]{43}", re.ASCII)
_REF_LENGTH = 26
# No job has this ref: `receiver doctor` calls our own callback with its ticket, to check that
# PUBLIC_URL leads here.
CANARY = "0" * _REF_LENGTH
# Used in place of a malformed ticket, so that the comparison takes as long.
_INVALID = f"{'0' * _REF_LENGTH}.{'-' * 43}"
# Hex digits of a fingerprint: 24 bits tell a handful of secrets apart. A generated secret has 256
# bits, so each fingerprint fits 2^232 secrets and cannot confirm a guess.
_FINGERPRINT_LENGTH = 6


@dataclass(frozen=True, slots=True)
class _Key:
    """What is derived from a secret.

    ``key`` signs tickets, ``jobs_key`` derives the secrets of jobs, and ``fingerprint`` is shown in
    place of the secret.
    """

    key: bytes
    fingerprint: str
    jobs_key: bytes


@dataclass(frozen=True, slots=True)
class _Keys:
    """The keys of secrets, in their order."""

    secrets: Sequence[str]
    all: tuple[_Key, ...]


class Tickets:
    """Signs refs and verifies tickets, with secrets that are sorted newest first.

    A ticket is valid for ``lifetime`` seconds from the time in its ref; ``now`` is the clock.
    ``newest`` returns the current secrets, as the same object until they change; by default they
    never do.
    """

    def __init__(
        self,
        secrets: Sequence[str] = (),
        newest: Callable[[], Sequence[str]] | None = None,
        *,
        lifetime: float = math.inf,
        now: Callable[[], float] = clock.now,
    ) -> None:
        self._lifetime, self._now = lifetime, now
        self._newest = newest or (lambda: secrets)
        self._derived = _derive(self._newest())

    def sign(self, ref: str) -> str:
        """Return the ticket of the job ``ref``."""
        return self.issue(ref)[0]

    def issue(self, ref: str, provider: Provider = Provider.GRSAI) -> tuple[str, str]:
        """Return the ticket of the job ``ref``, and the fingerprint of the secret that signed."""
        first = self._keys()[0]
        signed = ref if provider is Provider.GRSAI else f"{ref}-{provider}"
        return _ticket(first.key, signed).decode(), first.fingerprint

    def job_secrets(self, ref: str) -> tuple[str, ...]:
        """Return the secrets of a job for a provider that signs each job's callbacks with its own.

        One is derived from each callback secret, so none is stored. New jobs get the first one; a
        callback that arrives during a rotation may be signed with a later one.
        """
        return tuple(
            hmac.digest(one.jobs_key, ref.encode(), "sha256").hex() for one in self._keys()
        )

    def ref(self, ticket: str) -> str:
        """Return the ref of a ticket; raise TicketError."""
        return self.read(ticket)[0]

    def read(self, ticket: str) -> tuple[str, Provider]:
        """Return the ref of a ticket and the provider that may call it.

        Raise TicketError for any text that is not exactly ours.

        Raise TicketExpiredError if it is ours and too old, ProviderError if this release does not
        know its provider.

        The ticket is not decoded but compared with the one that we would make, because base64 can
        spell the same signature in several ways. The same work is done for every input, so that the
        time it takes does not help to guess a ticket.
        """
        well_formed = _FORMAT.fullmatch(ticket) is not None
        candidate = ticket if well_formed else _INVALID
        signed = candidate[: candidate.index(".")]
        matches = [
            hmac.compare_digest(_ticket(one.key, signed), candidate.encode())
            for one in self._keys()
        ]
        if not (well_formed and any(matches)):
            raise TicketError("this ticket was not made by us")
        ref, name = signed[:_REF_LENGTH], signed[_REF_LENGTH + 1 :]
        if ref != CANARY and self._now() - ULID.from_str(ref).timestamp > self._lifetime:
            raise TicketExpiredError(ref)
        return ref, Provider.of(name) if name else Provider.GRSAI

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The fingerprints of the secrets, that of the signing one first."""
        return tuple(one.fingerprint for one in self._keys())

    def _keys(self) -> tuple[_Key, ...]:
        if (secrets := self._newest()) is not self._derived.secrets:
            self._derived = _derive(secrets)
        return self._derived.all


def fingerprint(secret: str) -> str:
    """Return the name by which a secret is stored and shown; it does not help to guess it."""
    return hmac.digest(_derived_key(secret, "callback-secret-fingerprint"), b"", "sha256").hex()[
        :_FINGERPRINT_LENGTH
    ]


def _derive(secrets: Sequence[str]) -> _Keys:
    # itsdangerous derives the key again for every signature, which takes longer than signing.
    keys = (
        _Key(
            _derived_key(one, "callback-ticket"), fingerprint(one), _derived_key(one, "job-secret")
        )
        for one in secrets
    )
    return _Keys(secrets, tuple(keys))


def _derived_key(secret: str, salt: str) -> bytes:
    return Signer(secret, salt=salt, digest_method=sha256, key_derivation="hmac").derive_key()


def _ticket(key: bytes, ref: str) -> bytes:
    message = ref.encode()
    return message + b"." + base64_encode(hmac.digest(key, message, "sha256"))
