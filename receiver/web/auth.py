"""Who may look: ADMIN_TOKEN as a bearer, or a cookie that a login with it was answered with.

The cookie is signed with a key made from ADMIN_TOKEN, so that every process of ours knows it, and another token ends every session. What
it holds is a random name of the session; the token that proves that a form was ours is signed for that name.
"""

import hmac
import secrets
import threading
import time
from collections.abc import Callable

from flask import Response, g, request
from itsdangerous import BadSignature, URLSafeSerializer, URLSafeTimedSerializer

from receiver.web.state import services

# Seconds a login lasts.
LIFETIME = 12 * 3600
# Wrong tokens a process may be told at once, and seconds until it may be told one more.
ATTEMPTS, SECONDS_PER_ATTEMPT = 10, 3.0


def holds_token(given: str) -> bool:
    """Say whether this is ADMIN_TOKEN."""
    return hmac.compare_digest(given.strip().encode(), services().admin_token.encode())


def has_bearer() -> bool:
    """Say whether the request shows ADMIN_TOKEN in its head."""
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    return kind.lower() == "bearer" and holds_token(given)


def session() -> str | None:
    """Return the name of the session this request belongs to; None without a valid cookie."""
    if "session" not in g:
        g.session = _read(request.cookies.get(_cookie_name(), ""))
    found: str | None = g.session
    return found


def _read(cookie: str) -> str | None:
    try:
        return str(_sessions().loads(cookie, max_age=LIFETIME))
    except BadSignature:
        return None


def begin(response: Response) -> None:
    """Give the answer the cookie of a new session."""
    _set(response, _sessions().dumps(secrets.token_urlsafe(18)), LIFETIME)


def end(response: Response) -> None:
    """Have the browser forget the session."""
    _set(response, "", 0)


def _set(response: Response, value: str, max_age: int) -> None:
    response.set_cookie(
        _cookie_name(),
        value,
        max_age=max_age,
        path="/",
        secure=_is_public_https(),
        httponly=True,
        samesite="Strict",
    )


def form_token() -> str:
    """Return what a form of this session must come with; empty without a session."""
    name = session()
    return str(_form_tokens().dumps(name)) if name else ""


def is_own_form(given: str) -> bool:
    """Say whether a form came from a page of this session."""
    expected = form_token()
    return bool(expected) and hmac.compare_digest(given.encode(), expected.encode())


def _cookie_name() -> str:
    # The prefix is a browser's promise that no other host has set it; it is given over https only.
    return "__Host-receiver" if _is_public_https() else "receiver"


def _is_public_https() -> bool:
    return (services().settings.public_url or "").startswith("https://")


def _sessions() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(services().admin_token, salt="dashboard-session")


def _form_tokens() -> URLSafeSerializer:
    return URLSafeSerializer(services().admin_token, salt="dashboard-form")


class Throttle:
    """Lets so many through at once, then one every so many seconds."""

    def __init__(
        self, most: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most, self._seconds, self._clock = most, seconds, clock
        self._lock = threading.Lock()
        self._left, self._counted_at = float(most), clock()

    def wait(self) -> int:
        """Take a turn and return 0, or return the seconds until there is one."""
        with self._lock:
            now = self._clock()
            self._left = min(self._most, self._left + (now - self._counted_at) / self._seconds)
            self._counted_at = now
            if self._left >= 1:
                self._left -= 1
                return 0
            return int((1 - self._left) * self._seconds) + 1
