"""Redacts known secrets, and anything that looks like a ticket, in stored and logged texts.

Our code writes no secret into a text, but others do. A provider quotes the key that it refuses, or
the callback URL that it cannot reach; a library prints its arguments.
"""

import re
from collections.abc import Iterable

# Shorter secrets are used in tests only; redacting them would damage ordinary text.
MIN_LENGTH = 8
REPLACEMENT = "[secret]"

# A ticket as ``tickets`` makes it; the ref before the dot is not a secret and is kept.
_TICKET = re.compile(r"([0-7][0-9A-HJKMNP-TV-Z]{25})\.[A-Za-z0-9_-]{43}", re.ASCII)

# In a URL: the password, and the values of parameters that give access.
_USER = re.compile(r"(?<=://)[^/?#@\s]*@", re.ASCII)
_GRANT = re.compile(
    r"(?i)([?&][^=&#\s]*(?:sig|signature|token|key|secret|password|credential)[^=&#\s]*=)[^&#\s]+"
)


class Redactor:
    """Replaces these secrets in texts and bodies."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # The longest first: a secret that contains another one is replaced as a whole.
        known = sorted(
            {secret for secret in secrets if len(secret) >= MIN_LENGTH}, key=len, reverse=True
        )
        self._known = re.compile("|".join(map(re.escape, known))) if known else None
        self._raw = [secret.encode() for secret in known]

    def __call__(self, text: str) -> str:
        """Return the text without secrets and tickets."""
        if self._known is not None:
            text = self._known.sub(REPLACEMENT, text)
        return _TICKET.sub(rf"\1.{REPLACEMENT}", text)

    def raw(self, body: bytes) -> bytes:
        """Return a body without secrets. Tickets are kept: they may be part of a valid report."""
        for secret in self._raw:
            body = body.replace(secret, REPLACEMENT.encode())
        return body


def without_url_secrets(text: str) -> str:
    """Return a text without the passwords and signatures in its URLs."""
    if "://" not in text:
        return text
    return _GRANT.sub(rf"\1{REPLACEMENT}", _USER.sub(f"{REPLACEMENT}@", text))
