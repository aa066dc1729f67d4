"""The HTTP routes: GRSAI's endpoints, the result files, other providers, and /sandbox."""

import json
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from flask import Flask, Response, request
from flask.typing import ResponseReturnValue
from werkzeug.wrappers import Response as BaseResponse

from submitter.sandbox import control, responses
from submitter.sandbox.connection import CONNECTION
from submitter.sandbox.downloads import download, html_page
from submitter.sandbox.fields import field_faults
from submitter.sandbox.request import Kind, RefusedError, Reply, TaskRequest, read_request
from submitter.sandbox.runner import Runner
from submitter.sandbox.spelling import submit_answer
from submitter.sandbox.stand_ins.routes import StandInRoutes, StandIns
from submitter.sandbox.tasks import Task

_LEGACY = {
    "/v1/draw/completions": Kind.IMAGE,
    "/v1/draw/nano-banana": Kind.CAPTIONED,
    "/v1/draw/flux": Kind.IMAGE,
    "/v1/video/sora-video": Kind.SORA,
    "/v1/video/veo": Kind.VEO,
}
_BAD_GATEWAY = "502 Bad Gateway"
_CREDITS_AT_START = 10_000


class AccessRules:
    """The accepted API keys (None: any) and the models that do not exist."""

    def __init__(
        self, keys: Collection[str] | None = None, unknown_models: Collection[str] = ()
    ) -> None:
        self._keys, self._unknown = keys, unknown_models

    def authorized(self) -> bool:
        """Return whether the current request has an accepted key."""
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self.accepts(key.strip())

    def accepts(self, key: str) -> bool:
        """Return whether a key is accepted."""
        return bool(key) and (self._keys is None or key in self._keys)

    def check_model(self, model: str) -> None:
        """Raise RefusedError, with the vendor's text, for a model that does not exist.

        Names that begin with ``no-such-`` never exist.
        """
        if model.startswith("no-such-") or model in self._unknown:
            raise RefusedError(f"不存在该模型: {model}")


def create_app(
    runner: Runner,
    access: AccessRules,
    script: Mapping[str, Any],
    stopping: threading.Event,
    stand_ins: StandIns,
) -> Flask:
    """Return the WSGI application; its environ must hold CONNECTION.

    ``script`` holds the defaults of every job's own script.
    """
    app = Flask(__name__, static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined] # flask's default provider has it, its base class does not

    @app.before_request
    def authorize() -> ResponseReturnValue | None:
        if not request.path.startswith("/v1/") or access.authorized():
            return None
        runner.tasks.count("unauthorized")
        return responses.refusal("invalid apikey", 401, newer=request.path.startswith("/v1/api/"))

    def submit(kind: Kind | None) -> ResponseReturnValue:
        body: Any = request.get_json(force=True, silent=True)
        try:
            task_request = read_request(kind, body, script)
            access.check_model(task_request.model)
            faults = _checked_fields(task_request, body)
        except RefusedError as error:
            runner.tasks.count("refused")
            return _refused(error, newer=kind is None)
        if other := _not_accepted(task_request):
            runner.tasks.count("refused")
            return other
        task = runner.accept(task_request, body)
        task.field_faults = faults
        return _answer(task, runner, stopping)

    def add(path: str, kind: Kind | None) -> None:
        app.add_url_rule(path, path, lambda: submit(kind), methods=["POST"])

    for path, kind in _LEGACY.items():
        add(path, kind)
    add("/v1/api/generate", None)
    _add_results(app, runner)
    _add_files(app, runner, stopping)
    _add_credits(app, runner, access)
    control.add_routes(app, runner)
    StandInRoutes(runner, stand_ins, script, access.accepts, stopping).add(app)
    return app


def _checked_fields(task_request: TaskRequest, body: dict[str, Any]) -> list[str]:
    """Return what the vendor would ignore or reject; raise RefusedError if the script is strict."""
    faults = field_faults(request.path, body)
    if task_request.script.strict and faults:
        raise RefusedError("; ".join(faults))
    return faults


def _refused(error: RefusedError, *, newer: bool) -> ResponseReturnValue:
    if error.status and error.status >= 500:  # noqa: PLR2004 - HTTP's own numbers
        return html_page(error.status, f"{error.status} {error}")
    return responses.refusal(str(error), error.status, newer=newer)


def _not_accepted(task_request: TaskRequest) -> Response | None:
    """Return the answer if the script neither accepts nor plainly refuses the submit, else None."""
    script = task_request.script
    if script.answer.mode == "redirect":
        return Response(status=302, headers={"Location": script.answer.to})
    if task_request.reply is Reply.STREAM and script.stream.mode in ("error_event", "late_error"):
        error = json.dumps(responses.envelope(None, -1, "refused inside the stream"))
        begun = 'data: {"status":"running"}\n\n' if script.stream.mode == "late_error" else ""
        return Response(f"{begun}data: {error}\n\n", mimetype="text/event-stream")
    return None


def _answer(task: Task, runner: Runner, stopping: threading.Event) -> ResponseReturnValue:
    """Answer an accepted submit as the request asks, unless its script has a fault here."""
    answer = task.request.script.answer
    if answer.mode == "lost":
        _connection().shutdown(socket.SHUT_RDWR)
        return "", 500  # the connection is cut, so the client never reads this
    if answer.mode == "slow":
        stopping.wait(answer.seconds)
    if task.request.reply is Reply.STREAM:
        return _stream(task, runner, stopping)
    if answer.mode == "finished":
        task.finished.wait()
        return Response(*_spelled(runner.result(task), task, runner, status=answer.status))
    if task.request.reply is not Reply.JSON:
        return _submitted(task)
    task.finished.wait()
    return (runner.result(task), 503 if task.status == "running" else 200)


def _submitted(task: Task) -> Response:
    """Return the answer with the id, in the spelling of the script."""
    answer = task.request.script.answer
    if answer.mode in ("ok", "slow"):
        body, breaks = json.dumps(responses.submitted(task)).encode(), False
    else:
        body, breaks = submit_answer(task.id, answer.mode)
    if not breaks:
        return Response(body, answer.status, mimetype="application/json")

    def pieces() -> Iterator[bytes]:
        yield body
        raise ConnectionAbortedError

    broken = Response(pieces(), answer.status, mimetype="application/json")
    broken.content_length = len(body) + 100
    return broken


def _spelled(
    body: dict[str, Any], task: Task, runner: Runner, status: int = 200
) -> tuple[bytes, int, dict[str, str]]:
    data, headers = runner.spelled(task, body)
    return data, status, headers


def _stream(task: Task, runner: Runner, stopping: threading.Event) -> ResponseReturnValue:
    if task.request.script.stream.mode == "json_error":
        return responses.refusal("the stream could not be opened", None, newer=task.request.newer)
    if task.request.script.stream.mode == "id":
        return Response(json.dumps(responses.envelope({"id": task.id})), 200)
    if task.request.script.stream.mode == "task":
        task.finished.wait()
        return Response(*_spelled(runner.result(task), task, runner))
    return Response(_events(task, runner, stopping), mimetype="text/event-stream")


def _events(task: Task, runner: Runner, stopping: threading.Event) -> Iterator[bytes]:
    """Yield server-sent events of task objects until the task ends or the sandbox stops."""
    script = task.request.script

    def event(body: dict[str, Any]) -> bytes:
        text, _ = runner.spelled(task, body, in_stream=True)
        match script.stream.mode:
            case "lines":
                return text + b"\n"
            case "comments":
                return b": ping\r\n\r\nevent: message\r\nid: 7\r\ndata:%b\r\n\r\n" % text
        return b"data: " + text + b"\n\n"

    yield event(responses.task_object(task, runner.files, "running", 0))
    if script.stream.mode == "hang":
        stopping.wait(script.stream.seconds)
        return
    parts = script.progress + 1
    for part in range(1, parts):
        if task.finished.wait(script.delay / parts):
            break
        yield event(responses.task_object(task, runner.files, "running", 100 * part // parts))
    if script.stream.mode == "cut":
        return
    task.finished.wait()
    if task.status == "running":  # the sandbox stops
        return
    yield event(runner.result(task))
    if script.stream.mode not in ("no_done", "lines"):
        yield b"data: [DONE]\n\n"


def _add_results(app: Flask, runner: Runner) -> None:
    @app.post("/v1/draw/result")
    def legacy_result() -> ResponseReturnValue:
        body = request.get_json(force=True, silent=True)
        return _read(
            runner,
            body.get("id") if isinstance(body, dict) else None,
            wrap=responses.envelope,
            missing=(responses.NOT_FOUND, 200),
        )

    @app.get("/v1/api/result")
    def newer_result() -> ResponseReturnValue:
        return _read(
            runner,
            request.args.get("id"),
            wrap=lambda body: body,
            missing=(responses.NEWER_NOT_FOUND, 400),
        )


def _read(
    runner: Runner,
    task_id: object,
    wrap: Callable[[dict[str, Any]], dict[str, Any]],
    missing: tuple[dict[str, Any], int],
) -> ResponseReturnValue:
    """Answer and count one read of a result, with the fault of the task's script."""
    runner.tasks.count("results_asked")
    task = runner.tasks.get(task_id)
    if task is None:
        return missing
    fault = task.request.script.result
    applies = fault.applies_to(task.count_read())
    if applies and fault.mode == "gone":
        return missing
    if applies and fault.mode == "gateway":
        return html_page(502, _BAD_GATEWAY)
    status = 400 if applies and fault.mode == "bad_request" else 200
    body = wrap(runner.result(task, urls=not applies or fault.mode != "no_url"))
    return Response(*_spelled(body, task, runner, status))


def _add_files(app: Flask, runner: Runner, stopping: threading.Event) -> None:
    @app.get("/file/<name>")
    def file(name: str) -> BaseResponse:
        """Serve a file; its extension is ignored."""
        runner.tasks.count("file_gets")
        found = runner.files.find(name.partition(".")[0])
        if found is None:
            return html_page(404, "404 Not Found")
        result_file, expires_at = found
        if runner.files.has_expired(expires_at):
            return html_page(403, "403 Forbidden")
        plain = "plain" in request.args
        return download(result_file, runner.files, _connection(), stopping, plain=plain)


def _add_credits(app: Flask, runner: Runner, access: AccessRules) -> None:
    """Add the endpoint for the credits left, as public client code of GRSAI calls it.

    Each accepted submit costs one credit and a failed job returns it; all keys share one account.
    """

    @app.post("/client/openapi/getAPIKeyCredits")
    def credits_left() -> ResponseReturnValue:
        body = request.get_json(force=True, silent=True)
        key = body.get("apiKey") if isinstance(body, dict) else None
        if not isinstance(key, str) or not access.accepts(key.strip()):
            return responses.envelope(None, -1, "invalid apikey")
        refunded = sum(task.status == "failed" for task in runner.tasks)
        left = _CREDITS_AT_START - runner.tasks.counts["accepted"] + refunded
        return responses.envelope({"credits": max(0, left)})


def _connection() -> socket.socket:
    connection: socket.socket = request.environ[CONNECTION]
    return connection
