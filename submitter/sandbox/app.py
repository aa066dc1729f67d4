"""The routes: GRSAI's endpoints of both generations under /v1, the files, and the sandbox's own pages under /sandbox."""

import socket
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

from flask import Flask, Response, request
from flask.typing import ResponseReturnValue
from werkzeug.wrappers import Response as BaseResponse

from submitter.sandbox import control, credits, responses  # noqa: A004 - the vendor's word
from submitter.sandbox.connection import CONNECTION
from submitter.sandbox.downloads import download, page
from submitter.sandbox.request import Kind, RefusedError, Reply, read_order
from submitter.sandbox.runner import Studio
from submitter.sandbox.streams import events
from submitter.sandbox.tasks import Task

_LEGACY = {
    "/v1/draw/completions": Kind.IMAGE,
    "/v1/draw/nano-banana": Kind.CAPTIONED,
    "/v1/video/sora-video": Kind.SORA,
    "/v1/video/veo": Kind.VEO,
}
_BAD_GATEWAY = "502 Bad Gateway"


class Refusals:
    """What is refused without a script. ``keys`` are accepted (None: any), ``unknown_models`` and every ``no-such-…`` are not."""

    def __init__(
        self, keys: Collection[str] | None = None, unknown_models: Collection[str] = ()
    ) -> None:
        self._keys, self._unknown = keys, unknown_models

    def authorized(self) -> bool:
        """Whether the request carries a key we accept."""
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self.accepts(key.strip())

    def accepts(self, key: str) -> bool:
        """Whether a key is one we accept."""
        return bool(key) and (self._keys is None or key in self._keys)

    def check_model(self, model: str) -> None:
        """Raise RefusedError, in the vendor's words, for a model that does not exist."""
        if model.startswith("no-such-") or model in self._unknown:
            raise RefusedError(f"不存在该模型: {model}")


def create_app(
    studio: Studio, refusals: Refusals, script: Mapping[str, Any], stopping: threading.Event
) -> Flask:
    """Make the WSGI application; ``script`` is what every job's own script is laid over. Its environ must hold CONNECTION."""
    app = Flask(__name__, static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined] # flask's default provider has it, its base class does not

    @app.before_request
    def authorize() -> ResponseReturnValue | None:
        if not request.path.startswith("/v1/") or refusals.authorized():
            return None
        studio.tasks.count("unauthorized")
        return responses.refusal("invalid apikey", 401, newer=request.path.startswith("/v1/api/"))

    def submit(kind: Kind | None) -> ResponseReturnValue:
        body: Any = request.get_json(force=True, silent=True)
        try:
            order = read_order(kind, body, script)
            refusals.check_model(order.model)
        except RefusedError as error:
            studio.tasks.count("refused")
            if error.status and error.status >= 500:  # noqa: PLR2004 - HTTP's own numbers
                return page(error.status, f"{error.status} {error}")
            return responses.refusal(str(error), error.status, newer=kind is None)
        task = studio.accept(order, body)
        return _answer(task, studio, stopping)

    def add(path: str, kind: Kind | None) -> None:
        app.add_url_rule(path, path, lambda: submit(kind), methods=["POST"])

    for path, kind in _LEGACY.items():
        add(path, kind)
    add("/v1/api/generate", None)
    _add_results(app, studio)
    _add_files(app, studio, stopping)
    credits.add_routes(app, studio, refusals.accepts)
    control.add_routes(app, studio)
    return app


def _answer(task: Task, studio: Studio, stopping: threading.Event) -> ResponseReturnValue:
    """Answer an accepted submit in the way it asked for, unless its script spoils the answer."""
    order = task.order
    if order.script.answer.mode == "lost":
        _connection().shutdown(socket.SHUT_RDWR)
        return "", 500  # nobody will read it
    if order.script.answer.mode == "slow":
        stopping.wait(order.script.answer.seconds)
    if order.reply is Reply.STREAM:
        return _stream(task, studio, stopping)
    if order.reply is not Reply.JSON:
        return responses.submitted(task)
    task.finished.wait()
    return (studio.result(task), 503 if task.status == "running" else 200)


def _stream(task: Task, studio: Studio, stopping: threading.Event) -> ResponseReturnValue:
    if task.order.script.stream.mode == "json_error":
        return responses.refusal("the stream could not be opened", None, newer=task.order.newer)
    return Response(events(task, studio, stopping), mimetype="text/event-stream")


def _add_results(app: Flask, studio: Studio) -> None:
    @app.post("/v1/draw/result")
    def legacy_result() -> ResponseReturnValue:
        body = request.get_json(force=True, silent=True)
        return _read(
            studio,
            body.get("id") if isinstance(body, dict) else None,
            wrap=responses.envelope,
            missing=(responses.NOT_FOUND, 200),
        )

    @app.get("/v1/api/result")
    def newer_result() -> ResponseReturnValue:
        return _read(
            studio,
            request.args.get("id"),
            wrap=lambda body: body,
            missing=(responses.NEWER_NOT_FOUND, 400),
        )


def _read(
    studio: Studio,
    task_id: object,
    wrap: Callable[[dict[str, Any]], dict[str, Any]],
    missing: tuple[dict[str, Any], int],
) -> ResponseReturnValue:
    """Answer one reading of a result, counted, with the fault its script wants."""
    studio.tasks.count("results_asked")
    task = studio.tasks.get(task_id)
    if task is None:
        return missing
    result = task.order.script.result
    suffers = result.suffers(task.count_reading())
    if suffers and result.mode == "gone":
        return missing
    if suffers and result.mode == "gateway":
        return page(502, _BAD_GATEWAY)
    return wrap(studio.result(task, urls=not suffers))


def _add_files(app: Flask, studio: Studio, stopping: threading.Event) -> None:
    @app.get("/file/<name>")
    def file(name: str) -> BaseResponse:
        """Serve a file; the extension says nothing that the name does not."""
        studio.tasks.count("file_gets")
        found = studio.files.find(name.partition(".")[0])
        if found is None:
            return page(404, "404 Not Found")
        asked, expires_at = found
        if studio.files.ended(expires_at):
            return page(403, "403 Forbidden")
        return download(asked, studio.files, _connection(), stopping, plain="plain" in request.args)


def _connection() -> socket.socket:
    connection: socket.socket = request.environ[CONNECTION]
    return connection
