"""What every page shares: who may see it, its language and colours, its headers, and how its errors look."""

from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import parse_qsl, urlencode

import structlog
from flask import Blueprint, Response, g, redirect, render_template, request, url_for
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import HTTPException, NotFound, RequestEntityTooLarge
from werkzeug.wrappers import Response as AnyResponse

from receiver.errors import ReceiverError
from receiver.web import auth
from receiver.web.body import read_body
from receiver.web.dashboard import formatting
from receiver.web.dashboard.summary import figures
from receiver.web.dashboard.translations import LANGUAGES, TEXTS, text
from receiver.web.problems import RETRY_AFTER

log = structlog.get_logger(__name__)

blueprint = Blueprint("dashboard", __name__)

M = TypeVar("M", bound=BaseModel)

# Bytes of a form: a long prompt, many times over.
LONGEST_FORM = 1024 * 1024
THEMES = ("auto", "light", "dark")
# What strangers may see.
_PUBLIC = {"dashboard.login", "dashboard.log_in", "dashboard.prefer"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


# Who may come in.


@blueprint.before_request
def require_session() -> AnyResponse | None:
    """Show strangers the login; believe a form only if a page of the same session made it."""
    if request.endpoint in _PUBLIC:
        return None
    if auth.session() is None:
        return _to_login()
    given = request.headers.get("X-CSRF-Token") or (
        form().get("csrf", "") if request.method == "POST" else ""
    )
    if request.method not in {"GET", "HEAD", "OPTIONS"} and not auth.is_own_form(given):
        return message(403, "error_403", said("error_403_help"))
    return None


def _to_login() -> AnyResponse:
    if request.headers.get("Sec-Fetch-Site") == "cross-site" and request.method == "GET":
        # The browser keeps a strict cookie back from who follows a link elsewhere. A request of our own page brings it.
        return dress(Response(render_template("again.html"), headers={"Refresh": "0"}))
    wanted = request.full_path.rstrip("?") if request.method == "GET" and not is_fragment() else "/"
    target = url_for("dashboard.login", next=wanted)
    return Response(headers={"HX-Redirect": target}) if is_fragment() else redirect(target, 303)


def is_fragment() -> bool:
    """Say whether a part of a page is asked for, by htmx."""
    return request.headers.get("HX-Request") == "true"


@blueprint.after_request
def dress(response: Response) -> Response:
    """Let the browser do no more with a page than it needs, and keep nothing of it."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response


# Language, colours, texts.


def language() -> str:
    """Return the language of this request: the one that was chosen, else the browser's."""
    chosen = request.cookies.get("language", "")
    return (
        chosen
        if chosen in LANGUAGES
        else request.accept_languages.best_match(list(LANGUAGES), "en")
    )


def said(key: str, **values: object) -> str:
    """Return a text in the language of this request."""
    return text(language(), key, **values)


@blueprint.app_context_processor
def offer() -> dict[str, object]:
    """Give every template its words and shapes."""
    theme = request.cookies.get("theme", "")
    return {
        "t": said,
        "lang": language(),
        "languages": LANGUAGES,
        "theme": theme if theme in THEMES else "auto",
        "themes": THEMES,
        "csrf": auth.form_token,
        "here": request.full_path.rstrip("?"),
        "shape": formatting,
        "standing": lambda **how: figures().standing(**how),
        "static": static,
    }


def static(name: str) -> str:
    """Return the address of a static file; it changes with the file, so that browsers may keep it for ever."""
    return url_for("static", filename=name, v=formatting.fingerprint(name))


def page(template: str, values: Mapping[str, object] | None = None, status: int = 200) -> Response:
    """Render a page."""
    notice = request.args.get("said", "")
    notice = said(f"said_{notice}") if f"said_{notice}" in TEXTS else ""
    return Response(render_template(template, notice=notice, **(values or {})), status=status)


def with_arguments(address: str, **arguments: object) -> str:
    """Return an address with those arguments that say something."""
    given = {name: str(value) for name, value in arguments.items() if value not in (None, "")}
    return f"{address}?{urlencode(given)}" if given else address


# Forms and questions.


def form() -> dict[str, str]:
    """Return the fields of the form that was sent; of a field that came twice, the last."""
    if "form" not in g:
        body = read_body(LONGEST_FORM).decode(errors="replace").replace("\x00", "")
        g.form = dict(parse_qsl(body, keep_blank_values=True, max_num_fields=100))
    found: dict[str, str] = g.form
    return {name: value.replace("\x00", "") for name, value in found.items()}


def own_address(given: str) -> str:
    """Return an address of ours to go on to; anything else becomes the gallery."""
    harmless = (
        given.startswith("/")
        and not given.startswith("//")
        and "\\" not in given
        and given.isprintable()
    )
    return given if harmless else "/"


# Errors.


def message(status: int, key: str, detail: str, *, back: str = "/") -> Response:
    """Show that something went wrong, in a page of its own."""
    shown = render_template(
        "message.html", title=said(key), detail=detail, back=back, bare=auth.session() is None
    )
    return Response(shown, status=status)


def stranger_message(status: int, key: str) -> Response:
    """Show the same to anybody, without asking for a session: no service has to be open."""
    shown = render_template(
        "message.html", title=said(key), detail=said(f"{key}_help"), back="/", bare=True
    )
    return dress(Response(shown, status=status))


@blueprint.errorhandler(ReceiverError)
def _unavailable(error: ReceiverError) -> Response:
    log.error("page not shown", path=request.path, error=str(error))
    response = stranger_message(503, "error_503")
    response.headers["Retry-After"] = str(RETRY_AFTER)
    return response


@blueprint.errorhandler(RequestEntityTooLarge)
def _too_large(_error: RequestEntityTooLarge) -> Response:
    return message(413, "error_413", said("error_413_help", size=formatting.size(LONGEST_FORM)))


@blueprint.errorhandler(
    NotFound
)  # by name, because the application has a handler of its own for it
@blueprint.errorhandler(HTTPException)
def _http_error(error: HTTPException) -> Response:
    status = error.code or 500
    return stranger_message(
        status, f"error_{status}" if f"error_{status}_help" in TEXTS else "error_404"
    )


@blueprint.errorhandler(Exception)
def _broken(error: Exception) -> Response:
    log.error("page broke off", path=request.path, exc_info=error)
    return stranger_message(500, "error_500")


def mistakes_of(model: type[M], values: dict[str, str]) -> tuple[M | None, list[str]]:
    """Read fields into a model; return it, or what is wrong with each."""
    try:
        return model.model_validate(values), []
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        return None, [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in found]
