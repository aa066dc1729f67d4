"""Blackening: known secrets, and anything that looks like a ticket, in texts that are kept, shown or logged.

Nothing of ours writes a secret into a text. But others do: a provider quotes the key it refuses or the callback URL it cannot reach, a
library prints what it was called with.
"""

import re
from collections.abc import Iterable

# Shorter ones are words of a test; blackening them would eat ordinary text.
SHORTEST = 8
BLACK = "[secret]"

# As tickets makes them; the ref in front is no secret and stays.
_TICKET = re.compile(r"([0-7][0-9A-HJKMNP-TV-Z]{25})\.[A-Za-z0-9_-]{43}", re.ASCII)


class Redactor:
    """Blackens these secrets wherever they stand."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # The longest first: where one contains another, nothing of it is left.
        known = sorted(
            {secret for secret in secrets if len(secret) >= SHORTEST}, key=len, reverse=True
        )
        self._known = re.compile("|".join(map(re.escape, known))) if known else None
        self._raw = [secret.encode() for secret in known]

    def __call__(self, text: str) -> str:
        """Return the text without secrets and tickets."""
        if self._known is not None:
            text = self._known.sub(BLACK, text)
        return _TICKET.sub(rf"\1.{BLACK}", text)

    def raw(self, body: bytes) -> bytes:
        """Return a body without secrets; tickets stay, they are somebody's answer."""
        for secret in self._raw:
            body = body.replace(secret, BLACK.encode())
        return body
