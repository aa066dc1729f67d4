"""Tickets: the signed part of a callback URL, good for one job and nothing else.

A ticket is ``<ref>.<HMAC-SHA-256 of ref, base64url>`` (itsdangerous). The first secret signs, all verify, so secrets can be rotated
without losing a callback under way.
"""

import hmac
import re
from collections.abc import Sequence
from hashlib import sha256

from itsdangerous import Signer

from receiver.errors import TicketError

# A ULID in upper case, a dot, 32 bytes in base64url without padding. Anything else was never made by us.
_SHAPE = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}\.[A-Za-z0-9_-]{43}", re.ASCII)
_REF_LENGTH = 26
# The ref of no job: with its ticket `receiver doctor` calls our own callback, to see whether it can be reached.
CANARY = "0" * _REF_LENGTH
# Checked in the place of what has no ticket's shape.
_NOBODYS = f"{'0' * _REF_LENGTH}.{'-' * 43}"


class Tickets:
    """Signs refs and reads them back; holds the secrets, newest first."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._signers = [
            Signer(secret, salt="callback-ticket", digest_method=sha256, key_derivation="hmac")
            for secret in secrets
        ]

    def sign(self, ref: str) -> str:
        """Return the ticket of the job ``ref``."""
        return self._signers[0].sign(ref).decode()

    def ref(self, ticket: str) -> str:
        """Return the ref a ticket was made for; raise TicketError for any text we did not make, to the letter.

        It is compared with the one we would have made, not decoded: base64 has several spellings of the same signature. Whatever is
        given, the same is computed, so that the time it takes says nothing of how near a guess came.
        """
        has_shape = _SHAPE.fullmatch(ticket) is not None
        candidate = ticket if has_shape else _NOBODYS
        ref = candidate[:_REF_LENGTH]
        matches = [
            hmac.compare_digest(signer.sign(ref), candidate.encode()) for signer in self._signers
        ]
        if has_shape and any(matches):
            return ref
        raise TicketError("this ticket was not made by us")
