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

# Seconds that a choice is remembered.
_YEAR = 365 * 86400


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
    """Begin a session if the token is right; the number of wrong ones is limited."""
    target = own_path(form().get("next", "/"))
    try:
        if not auth.is_admin_token(form().get("token", "")):
            complaint = localized("token_wrong")
            return page("login.html", {"target": target, "complaint": complaint}, 403)
    except auth.TooManyGuessesError as error:
        complaint = localized("token_slow", seconds=error.seconds)
        response = page("login.html", {"target": target, "complaint": complaint}, 429)
        response.headers["Retry-After"] = str(error.seconds)
        return response
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
