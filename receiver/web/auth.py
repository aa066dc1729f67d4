"""Authentication: ADMIN_TOKEN as a bearer token, or a session cookie after a login with it.

The session is Flask's signed cookie and the form token is Flask-WTF's. Both are signed with
ADMIN_TOKEN, so every process accepts them, and another token ends every session. A logout ends
every session too: the cookie has the epoch that the ledger had at the login, and a logout changes
the epoch.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

from flask import Flask, Request, Response, g, request, session
from flask.sessions import SecureCookieSessionInterface, SessionMixin
from flask_wtf.csrf import generate_csrf, validate_csrf  # type: ignore[import-untyped]  # the package has no types
from itsdangerous import URLSafeTimedSerializer
from wtforms import ValidationError  # type: ignore[import-untyped]  # as above

from receiver.web.rate_limit import RateLimiter
from receiver.web.state import per_app, services

# Seconds from a login to the end of its session.
LIFETIME = 12 * 3600
# Wrong tokens a minute from one address, and from all together, in one process; half as many at
# once.
WRONG_FROM_ONE, WRONG_IN_ALL = 20.0, 200.0


def init_app(app: Flask) -> None:
    """Set up the session cookie. Its name and key depend on settings that are read later."""
    app.session_interface = _SessionInterface()
    app.config.update(
        PERMANENT_SESSION_LIFETIME=LIFETIME,
        SESSION_REFRESH_EACH_REQUEST=False,  # a session ends 12 hours after its login
        SESSION_COOKIE_SAMESITE="Strict",
        WTF_CSRF_TIME_LIMIT=None,  # a form is valid as long as its session
    )


def has_bearer() -> bool:
    """Return whether the request has ADMIN_TOKEN in its Authorization header.

    Raise TooManyGuessesError if it is wrong, and many before it were wrong too.
    """
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    return kind.lower() == "bearer" and is_admin_token(given)


class TooManyGuessesError(Exception):
    """Too many wrong tokens came from this address; ``seconds`` until one more is only wrong."""

    def __init__(self, seconds: float) -> None:
        self.seconds = int(seconds) + 1
        super().__init__(f"too many wrong tokens; try again in {self.seconds} s")


def is_admin_token(given: str) -> bool:
    """Return whether ``given`` is ADMIN_TOKEN. Raise TooManyGuessesError if many were wrong.

    It is compared first, so the right token always works: behind a proxy all callers have one
    address, and the guesses of a stranger must not block the operator.
    """
    if hmac.compare_digest(given.strip().encode(), services().admin_token.encode()):
        return True
    if (delay := _wrong_tokens().delay(request.remote_addr)) > 0:
        raise TooManyGuessesError(delay)
    return False


@per_app
def _wrong_tokens() -> RateLimiter:
    """Return the limiter of wrong tokens, on the API and at the login."""
    return RateLimiter(WRONG_IN_ALL, burst=WRONG_IN_ALL / 2, share=WRONG_FROM_ONE / WRONG_IN_ALL)


def is_logged_in() -> bool:
    """Return whether the request has the cookie of a session that has not ended.

    Raise LedgerError if there is a cookie and the ledger cannot be read.
    """
    if "logged_in" not in g:
        g.logged_in = session.get("epoch") is not None and not session_end()()
    return bool(g.logged_in)


def session_end() -> Callable[[], bool]:
    """Return a function that says whether the session of this request has ended since."""
    sessions, epoch = services().sessions, session.get("epoch")
    return lambda: epoch is not None and epoch != sessions.epoch()


def log_in() -> None:
    """Begin a new session."""
    session.clear()
    session.permanent = True
    session["epoch"] = services().sessions.epoch()
    g.logged_in = True
    csrf_token()  # created now: a change of the session on a later page would extend it


def log_out() -> None:
    """End every session: a cookie that was copied is worth nothing afterwards.

    Raise LedgerError if that cannot be stored.
    """
    session.clear()
    g.logged_in = False
    services().sessions.end()


def csrf_token() -> str:
    """Return the token that every form of this session must send; empty without a session."""
    return str(generate_csrf(services().admin_token)) if is_logged_in() else ""


def is_csrf_token(given: str) -> bool:
    """Return whether ``given`` is a form token of this session."""
    try:
        validate_csrf(given, services().admin_token)
    except ValidationError:
        return False
    return True


class _LazySession(SessionMixin):
    """Session data that are read from the cookie at the first access.

    Flask opens a session for every request, before its error handlers apply. Callbacks and API
    calls with a bearer token never access it.
    """

    modified = False

    def __init__(self, load: Callable[[], SessionMixin | None]) -> None:
        self._load = load

    @cached_property
    def _data(self) -> dict[str, Any]:
        return dict(self._load() or {})

    def __getitem__(self, key: str) -> Any:
        return self._data[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.modified = True
        self._data[key] = value

    def __delitem__(self, key: str) -> None:
        self.modified = True
        del self._data[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)


class _SessionInterface(SecureCookieSessionInterface):
    """Flask's cookie sessions, with a key and a cookie name that are known at the first request."""

    def open_session(self, app: Flask, request: Request) -> SessionMixin:  # type: ignore[override]  # Flask's own class is narrower than what it needs
        load = super().open_session
        return _LazySession(lambda: load(app, request))

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        if session.modified:
            super().save_session(app, session, response)

    def get_signing_serializer(self, app: Flask) -> URLSafeTimedSerializer:  # noqa: ARG002 - Flask calls it so
        return URLSafeTimedSerializer(
            services().admin_token,
            salt=self.salt,
            serializer=self.serializer,
            signer_kwargs={
                "key_derivation": self.key_derivation,
                "digest_method": hashlib.sha256,
            },
        )

    def get_cookie_name(self, app: Flask) -> str:
        # Browsers accept the __Host- prefix over https only; no other host can set such a cookie.
        return "__Host-receiver" if self.get_cookie_secure(app) else "receiver"

    def get_cookie_secure(self, app: Flask) -> bool:  # noqa: ARG002 - Flask calls it so
        return (services().settings.public_url or "").startswith("https://")
