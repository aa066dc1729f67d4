"""Login and logout, and the choice of language and theme."""

from flask import redirect, request
from werkzeug.wrappers import Response as AnyResponse

from receiver.web import auth
from receiver.web.dashboard.base import (
    THEMES,
    blueprint,
    form,
    localized,
    own_path,
    page,
    with_query,
)
from receiver.web.dashboard.translations import LANGUAGES
from receiver.web.rate_limit import RateLimiter
from receiver.web.state import per_app

# Login attempts of one process: at once after a pause, and per minute in the long run.
ATTEMPTS_AT_ONCE, ATTEMPTS_A_MINUTE = 10, 20
# Seconds that a choice is remembered.
_YEAR = 365 * 86400


@per_app
def _attempts() -> RateLimiter:
    """Return the limiter of all attempts, from any address: behind a proxy addresses are alike."""
    return RateLimiter(ATTEMPTS_A_MINUTE, burst=ATTEMPTS_AT_ONCE, share=1)


@blueprint.get("/login")
def login() -> AnyResponse:
    """Ask for the token."""
    target = own_path(request.args.get("next", "/"))
    if auth.is_logged_in():
        return redirect(target, 303)
    # After a successful login without a session, the browser has refused the cookie.
    complaint = localized("cookie_lost") if request.args.get("welcome") else ""
    return page("login.html", {"target": target, "complaint": complaint})


@blueprint.post("/login")
def log_in() -> AnyResponse:
    """Begin a session if the token is right; the number of attempts is limited."""
    target = own_path(form().get("next", "/"))
    if delay := _attempts().delay(None):
        seconds = int(delay) + 1
        complaint = localized("token_slow", seconds=seconds)
        response = page("login.html", {"target": target, "complaint": complaint}, 429)
        response.headers["Retry-After"] = str(seconds)
        return response
    if not auth.is_admin_token(form().get("token", "")):
        complaint = localized("token_wrong")
        return page("login.html", {"target": target, "complaint": complaint}, 403)
    auth.log_in()
    return redirect(with_query("/login", next=target, welcome=1), 303)


@blueprint.post("/logout")
def log_out() -> AnyResponse:
    """End every session."""
    auth.log_out()
    return redirect("/login", 303)


@blueprint.get("/preferences")
def prefer() -> AnyResponse:
    """Remember a choice of language or theme in the browser."""
    response = redirect(own_path(request.args.get("next", "/")), 303)
    for name, choices in (("language", tuple(LANGUAGES)), ("theme", THEMES)):
        if (chosen := request.args.get(name)) in choices:
            response.set_cookie(name, chosen, max_age=_YEAR, samesite="Strict", httponly=True)
    return response
