"""What all pages share: access check, language and theme, response headers, forms and errors."""

from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

import structlog
from flask import Blueprint, Response, current_app, g, redirect, render_template, request, url_for
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import BadRequest, HTTPException, NotFound, RequestEntityTooLarge
from werkzeug.wrappers import Response as AnyResponse

from receiver.errors import ReceiverError, mistakes_in
from receiver.web import auth
from receiver.web.body import read_body
from receiver.web.dashboard import formatting
from receiver.web.dashboard.summary import statistics
from receiver.web.dashboard.translations import LANGUAGES, TEXTS, translate
from receiver.web.dashboard.translations_errors import chinese_error
from receiver.web.health import health_checks
from receiver.web.problems import RETRY_AFTER

log = structlog.get_logger(__name__)

blueprint = Blueprint("dashboard", __name__)

M = TypeVar("M", bound=BaseModel)

# Bytes of a form, and of the one for a new job, which may have reference pictures.
MAX_FORM_BYTES, MAX_SUBMIT_BYTES = 1024 * 1024, 32 * 1024 * 1024
MAX_FIELDS = 100
THEMES = ("auto", "light", "dark")
# Pages that need no session.
_PUBLIC = {"dashboard.login", "dashboard.log_in", "dashboard.prefer"}
# The label of each field of a form, for its mistakes.
_FIELD_TEXTS = {
    **{name: name for name in ("prompt", "model", "variants", "mode", "images", "params", "state")},
    **{name: name for name in ("since", "until", "batch", "folder")},
    "size": "size_ratio",
    "key": "own_key",
    "webhook": "own_webhook",
}
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; media-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


# Access.


@blueprint.before_request
def require_session() -> AnyResponse | None:
    """Show the login without a session, and refuse a form without this session's CSRF token."""
    if request.endpoint in _PUBLIC:
        return None
    if not auth.is_logged_in():
        return _to_login()
    if request.method not in _SAFE_METHODS and not auth.is_csrf_token(_given_csrf_token()):
        return error_page(403, "error_403", localized("error_403_help"))
    return None


def _given_csrf_token() -> str:
    """Return the CSRF token of the request.

    Flask-WTF's CSRFProtect reads ``request.form``, which accepts a form that was cut short as
    complete; ``form`` refuses it.
    """
    return request.headers.get("X-CSRF-Token") or form().get("csrf_token", "")


def _to_login() -> AnyResponse:
    if request.headers.get("Sec-Fetch-Site") == "cross-site" and request.method == "GET":
        # After a link on another site the browser withholds a SameSite=Strict cookie. It sends the
        # cookie with a reload, which comes from our own page.
        page = Response(render_template("reload.html"), headers={"Refresh": "0"})
        return add_security_headers(page)
    target = url_for("dashboard.login", next=_page_of_the_reader())
    return Response(headers={"HX-Redirect": target}) if is_fragment() else redirect(target, 303)


def _page_of_the_reader() -> str:
    """Return the path of the page that the reader sees: not of a part of it, nor of a form."""
    if request.method == "GET" and not is_fragment():
        return request.full_path.rstrip("?")
    try:
        given = urlsplit(
            request.headers.get("HX-Current-URL") or request.headers.get("Referer", "")
        )
    except ValueError:
        return "/"
    if given.netloc != request.host:
        return "/"
    return own_path(given._replace(scheme="", netloc="", fragment="").geturl())


def is_fragment() -> bool:
    """Return whether htmx asks for a part of a page."""
    return request.headers.get("HX-Request") == "true"


@blueprint.after_request
def add_security_headers(response: Response) -> Response:
    """Restrict what the browser does with a page, and forbid it to store the page."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response


# Language, theme, templates.


def language() -> str:
    """Return the language of this request: the chosen one, else the browser's."""
    chosen = request.cookies.get("language", "")
    if chosen in LANGUAGES:
        return chosen
    return request.accept_languages.best_match(list(LANGUAGES), "en")


def localized(key: str, **values: object) -> str:
    """Return a text in the language of this request."""
    return translate(language(), key, **values)


def localized_error(error: object) -> str:
    """Return an error's message in the language of this request, as far as it is translated."""
    return str(error) if language() == "en" else chinese_error(str(error))


def localized_mistake(mistake: str) -> str:
    """Return a mistake in the language of this request; it may begin with the field's name."""
    field, _, text = mistake.partition(": ")
    if language() == "en" or field not in _FIELD_TEXTS:
        return localized_error(mistake)
    return f"{localized(_FIELD_TEXTS[field])}：{localized_error(text)}"


@blueprint.app_context_processor
def template_context() -> dict[str, object]:
    """Return the names that every template may use."""
    theme = request.cookies.get("theme", "")
    return {
        "t": localized,
        "in_words": localized_error,
        "lang": language(),
        "languages": LANGUAGES,
        "theme": theme if theme in THEMES else "auto",
        "themes": THEMES,
        "csrf_token": auth.csrf_token,
        "current_url": request.full_path.rstrip("?"),
        "fmt": formatting,
        "summary": lambda **options: statistics().summary(**options),
        "faults": lambda: sorted(health_checks().known_faults()),
        "static": static,
        "with_query": with_query,
    }


def static(name: str) -> str:
    """Return the URL of a static file; it changes with the file, so browsers may cache it."""
    # Not url_for: it fails for a request that has no valid Host, which gets an error page, too.
    return f"{current_app.static_url_path}/{name}?v={formatting.fingerprint(name)}"


def page(template: str, values: Mapping[str, object] | None = None, status: int = 200) -> Response:
    """Render a page, with the notice that the URL names."""
    key = f"notice_{request.args.get('notice', '')}"
    notice = localized(key) if key in TEXTS else ""
    return Response(render_template(template, notice=notice, **(values or {})), status=status)


def with_query(path: str, **arguments: object) -> str:
    """Return a path with the arguments that are not empty as its query string."""
    given = {name: str(value) for name, value in arguments.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path


# Forms and queries.


def form() -> dict[str, str]:
    """Return the fields of the form that was sent; of a repeated field the last.

    Raise BadRequest if there are more than any form of ours has.
    """
    if "form" not in g:
        body = read_body(_max_form_bytes()).decode(errors="replace").replace("\x00", "")
        try:
            g.form = dict(parse_qsl(body, keep_blank_values=True, max_num_fields=MAX_FIELDS))
        except ValueError as error:
            raise BadRequest(f"a form may have at most {MAX_FIELDS} fields") from error
    found: dict[str, str] = g.form
    return {name: value.replace("\x00", "") for name, value in found.items()}


def _max_form_bytes() -> int:
    """Return the bytes that this form may have; the one for a new job may have pictures."""
    return MAX_SUBMIT_BYTES if request.endpoint == "dashboard.submit" else MAX_FORM_BYTES


def validate_fields(model: type[M], values: Mapping[str, object]) -> tuple[M | None, list[str]]:
    """Validate fields with a model; return it, or None and what is wrong with each field."""
    try:
        return model.model_validate(values), []
    except ValidationError as error:
        found = [f"{field}: {text}" if field else text for field, text in mistakes_in(error)]
        return None, [
            localized_mistake(mistake) if language() != "en" else mistake for mistake in found
        ]


def own_path(given: str) -> str:
    """Return ``given`` if it is a path of this site, else "/"; prevents open redirects."""
    is_own = (
        given.startswith("/")
        and not given.startswith("//")
        and "\\" not in given
        and given.isprintable()
    )
    return given if is_own else "/"


# Errors.


def error_page(status: int, key: str, detail: str, *, back: str = "/") -> Response:
    """Return a page that says what went wrong; ``key`` is its title's text."""
    shown = render_template(
        "error.html",
        title=localized(key),
        detail=detail,
        back=back,
        bare=not auth.is_logged_in(),
    )
    return Response(shown, status=status)


def public_error_page(status: int, key: str) -> Response:
    """Return an error page that needs neither a session nor open services."""
    shown = render_template(
        "error.html",
        title=localized(key),
        detail=localized(f"{key}_help"),
        back="/",
        bare=True,
    )
    return add_security_headers(Response(shown, status=status))


@blueprint.errorhandler(ReceiverError)
def _unavailable(error: ReceiverError) -> Response:
    log.error("page unavailable", path=request.path, error=str(error))
    response = public_error_page(503, "error_503")
    response.headers["Retry-After"] = str(RETRY_AFTER)
    return response


@blueprint.errorhandler(RequestEntityTooLarge)
def _too_large(_error: RequestEntityTooLarge) -> Response:
    limit = formatting.size(_max_form_bytes())
    return error_page(413, "error_413", localized("error_413_help", size=limit))


@blueprint.errorhandler(NotFound)  # named, because the application handles NotFound otherwise
@blueprint.errorhandler(HTTPException)
def _http_error(error: HTTPException) -> Response:
    key = f"error_{error.code}"
    return public_error_page(error.code or 500, key if f"{key}_help" in TEXTS else "error_404")


@blueprint.errorhandler(Exception)
def _server_error(error: Exception) -> Response:
    log.error("page failed", path=request.path, exc_info=error)
    return public_error_page(500, "error_500")
