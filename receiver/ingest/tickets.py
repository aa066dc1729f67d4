"""Tickets: the signed part of a callback URL, valid for one job only.

A ticket is ``<ref>.<HMAC-SHA-256 of ref, base64url>`` (itsdangerous). The first secret signs and
all verify, so that secrets can be rotated without losing callbacks that are on their way.
"""

import hmac
import re
from collections.abc import Sequence
from hashlib import sha256

from itsdangerous import Signer
from itsdangerous.encoding import base64_encode

from receiver.errors import TicketError

# A ULID in upper case, a dot, 32 bytes in base64url without padding.
_FORMAT = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}\.[A-Za-z0-9_-]{43}", re.ASCII)
_REF_LENGTH = 26
# Not a job's ref: `receiver doctor` calls our own callback with its ticket, to check that
# PUBLIC_URL leads here.
CANARY = "0" * _REF_LENGTH
# Compared in place of a malformed ticket.
_INVALID = f"{'0' * _REF_LENGTH}.{'-' * 43}"


class Tickets:
    """Signs refs and reads them back; holds the secrets, newest first."""

    def __init__(self, secrets: Sequence[str]) -> None:
        # itsdangerous derives the key again for every signature, which takes longer than signing.
        self._keys = [
            Signer(
                secret, salt="callback-ticket", digest_method=sha256, key_derivation="hmac"
            ).derive_key()
            for secret in secrets
        ]

    def sign(self, ref: str) -> str:
        """Return the ticket of the job ``ref``."""
        return _ticket(self._keys[0], ref).decode()

    def ref(self, ticket: str) -> str:
        """Return the ref of a ticket; raise TicketError for any text that is not exactly ours.

        The ticket is compared with the one we would make, not decoded, because base64 can spell the
        same signature in several ways. The same is computed for every input, so that the time it
        takes says nothing about a guess.
        """
        well_formed = _FORMAT.fullmatch(ticket) is not None
        candidate = ticket if well_formed else _INVALID
        ref = candidate[:_REF_LENGTH]
        matches = [hmac.compare_digest(_ticket(key, ref), candidate.encode()) for key in self._keys]
        if well_formed and any(matches):
            return ref
        raise TicketError("this ticket was not made by us")


def _ticket(key: bytes, ref: str) -> bytes:
    message = ref.encode()
    return message + b"." + base64_encode(hmac.digest(key, message, "sha256"))
