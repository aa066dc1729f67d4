"""Ed25519 signatures (RFC 8032) with public keys of a JWKS (RFC 8037)."""

import re
from base64 import urlsafe_b64decode
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported at its first use, because few installations need it
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

# 64 bytes in lower case: of several spellings of one signature only one is accepted.
_SIGNATURE = re.compile(r"[0-9a-f]{128}", re.ASCII)
_KEY = re.compile(r"[A-Za-z0-9_-]{43}=?", re.ASCII)


def key_of(entry: Any) -> str | None:
    """Return the public key of an entry of a JWKS, in base64url; None if it has none for us."""
    if not isinstance(entry, dict) or entry.get("crv", "Ed25519") != "Ed25519":
        return None
    key = entry.get("x")
    return key if isinstance(key, str) and _KEY.fullmatch(key) and _public_key(key) else None


def verifies(signature: str, message: bytes, keys: tuple[str, ...]) -> bool:
    """Return whether one of the keys made this signature (hex) of the message."""
    if not _SIGNATURE.fullmatch(signature):
        return False
    raw = bytes.fromhex(signature)
    return any(_fits(key, raw, message) for key in keys)


def _fits(key: str, signature: bytes, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - as above

    public_key = _public_key(key)
    if public_key is None:
        return False
    try:
        public_key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


@lru_cache(maxsize=16)
def _public_key(key: str) -> "Ed25519PublicKey | None":
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415 - as above
        Ed25519PublicKey,
    )

    try:
        return Ed25519PublicKey.from_public_bytes(urlsafe_b64decode(key.rstrip("=") + "="))
    except ValueError:
        return None
