"""The web application: callbacks, health checks, API and dashboard.

``create_app`` has no side effects; ``state`` says when the services are opened.
"""

from collections.abc import Callable
from typing import Any

from flask import Flask, Response, g, request
from markupsafe import Markup
from structlog.contextvars import bind_contextvars, unbind_contextvars
from werkzeug.http import HTTP_STATUS_CODES

from receiver.services import Services
from receiver.telemetry.printable import printable
from receiver.web import api, auth, callback, dashboard, health, links, state, v1
from receiver.web.problems import problem
from receiver.web.request_id import REQUEST_ID_HEADER, request_id

# Errors that have a page of their own.
_PAGES = {400, 405}


def _visible(value: object) -> object:
    """Return a text for a template, without characters that change how other text is read."""
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return printable(value, keep="\n\r\t") if is_text else value  # type: ignore[arg-type]  # a text


class _App(Flask):
    """Flask without its support for ``async`` functions, which it looks for at every call."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function: all of ours are synchronous."""
        return func


def create_app(services: Services | None = None) -> Flask:
    """Return the WSGI application.

    Without ``services`` the first request opens them, as the environment says.
    """
    app = _App(__name__)
    app.jinja_options = {**app.jinja_options, "finalize": _visible}
    # Never redirect to a normalised path: it would turn a POST into a GET and lose the callback.
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = False
    auth.init_app(app)
    app.register_blueprint(callback.blueprint)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(api.blueprint)
    app.register_blueprint(v1.blueprint)
    app.register_blueprint(links.blueprint)
    app.register_blueprint(dashboard.blueprint)
    # Flask runs after_request functions in reverse order: the request id is set last.
    app.before_request(_begin_request)
    app.after_request(_add_request_id)
    app.teardown_request(_end_request)
    app.after_request(_show_not_found)
    app.wsgi_app = callback.DirectCallbacks(app)  # type: ignore[method-assign]  # as Flask recommends
    if services is not None:
        state.attach(app, services)
    return app


def create_health_app(services: Services) -> Flask:
    """Return a WSGI application that answers health checks only, for a worker's port."""
    app = _App(__name__, static_folder=None)
    auth.init_app(app)
    app.register_blueprint(health.blueprint)
    state.attach(app, services)
    return app


def _begin_request() -> None:
    """Give the request an id that is on every log line and in the response."""
    g.request_id = request_id(request.headers.get(REQUEST_ID_HEADER, ""))
    bind_contextvars(request=g.request_id)


def _add_request_id(response: Response) -> Response:
    response.headers[REQUEST_ID_HEADER] = g.request_id
    return response


def _end_request(_error: BaseException | None) -> None:
    unbind_contextvars("request")


def _show_not_found(response: Response) -> Response:
    """Replace Flask's response to an unknown path or method: a problem for the API, else a page.

    Callbacks have their own responses.
    """
    status = response.status_code
    if status < 400 or request.endpoint not in {None, "static"}:  # noqa: PLR2004 - HTTP's first error
        return response
    if _is_callback(request.path):
        return callback.not_understood() if status == 400 else response  # noqa: PLR2004 - HTTP's number
    if request.path.startswith("/v1/"):
        shown = v1.failure(status, f"there is no {request.method} {request.path}", "unknown_url")
    elif request.path.startswith("/api/") or request.path == "/openapi.json":
        shown = problem(status, HTTP_STATUS_CODES.get(status, "").lower())
    else:
        key = f"error_{status}" if status in _PAGES else "error_404"
        shown = dashboard.public_error_page(status, key)
    if "Allow" in response.headers:
        shown.headers["Allow"] = response.headers["Allow"]
    response.close()  # a file that was opened before If-Match failed
    return shown


def _is_callback(path: str) -> bool:
    """Return whether the path was meant for a callback, with any number of leading slashes."""
    return path.lstrip("/").startswith("callback")
