"""Logging in and out, and the choice of language and colours."""

from flask import Response, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from receiver.web import auth
from receiver.web.dashboard.base import (
    THEMES,
    blueprint,
    form,
    own_address,
    page,
    said,
    with_arguments,
)
from receiver.web.dashboard.translations import LANGUAGES

# Seconds a choice is remembered.
_YEAR = 365 * 86400
_throttle = auth.Throttle(auth.ATTEMPTS, auth.SECONDS_PER_ATTEMPT)


@blueprint.get("/login")
def login() -> AnyResponse:
    """Ask for the token."""
    target = own_address(request.args.get("next", "/"))
    if auth.session() is not None:
        return redirect(target, 303)
    # Whoever comes here from a login that worked has a browser that threw the cookie away.
    return page(
        "login.html",
        {"target": target, "complaint": said("cookie_lost") if request.args.get("welcome") else ""},
    )


@blueprint.post("/login")
def log_in() -> AnyResponse:
    """Begin a session for who has the token; a process hears only so many who do not."""
    target = own_address(form().get("next", "/"))
    if seconds := _throttle.wait():
        response = page(
            "login.html", {"target": target, "complaint": said("token_slow", seconds=seconds)}, 429
        )
        response.headers["Retry-After"] = str(seconds)
        return response
    if not auth.holds_token(form().get("token", "")):
        return page("login.html", {"target": target, "complaint": said("token_wrong")}, 403)
    answer = redirect(with_arguments("/login", next=target, welcome=1), 303)
    assert isinstance(answer, Response)  # noqa: S101 - Flask's redirect makes Flask's answers
    auth.begin(answer)
    return answer


@blueprint.post("/logout")
def log_out() -> AnyResponse:
    """End the session of this browser."""
    answer = redirect("/login", 303)
    assert isinstance(answer, Response)  # noqa: S101 - as above
    auth.end(answer)
    return answer


@blueprint.get("/preferences")
def prefer() -> AnyResponse:
    """Remember a choice of language or colours in the browser."""
    answer = redirect(own_address(request.args.get("next", "/")), 303)
    for name, choices in (("language", tuple(LANGUAGES)), ("theme", THEMES)):
        if (chosen := request.args.get(name)) in choices:
            answer.set_cookie(name, chosen, max_age=_YEAR, samesite="Strict", httponly=True)
    return answer
