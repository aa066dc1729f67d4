"""The HTTP routes of the other providers' stand-ins: submits, polls, keys, accounts."""

import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flask import Flask, redirect, request
from flask.typing import ResponseReturnValue

from submitter.sandbox.connection import CONNECTION
from submitter.sandbox.downloads import html_page
from submitter.sandbox.request import RefusedError
from submitter.sandbox.runner import Runner
from submitter.sandbox.tasks import Task
from submitter.sandbox.twins.bfl import BflTwin
from submitter.sandbox.twins.fal import FalTwin
from submitter.sandbox.twins.kie import KieTwin
from submitter.sandbox.twins.replicate import ReplicateTwin
from submitter.sandbox.twins.twin import Twin, urls_of

_CREDITS = 10_000


@dataclass(frozen=True, slots=True)
class Twins:
    """The stand-ins of one sandbox."""

    fal: FalTwin
    replicate: ReplicateTwin
    bfl: BflTwin
    kie: KieTwin

    @classmethod
    def at(cls, url: str) -> "Twins":
        """Return the stand-ins, served below ``url``, with new keys."""
        return cls(FalTwin(url), ReplicateTwin(url), BflTwin(url), KieTwin(url))

    def environ(self, key: str) -> dict[str, str]:
        """Return the variables with which the service uses them."""
        return {
            "FAL_KEY": key,
            "FAL_BASE_URL": self.fal.url,
            "FAL_JWKS_URL": f"{self.fal.url}/.well-known/jwks.json",
            "REPLICATE_API_TOKEN": key,
            "REPLICATE_BASE_URL": self.replicate.url,
            "BFL_API_KEY": key,
            "BFL_BASE_URL": self.bfl.url,
            "KIE_API_KEY": key,
            "KIE_BASE_URL": self.kie.url,
            "KIE_WEBHOOK_KEY": self.kie.webhook_key,
        }


class TwinRoutes:
    """Adds the routes; ``accepts`` tells whether an API key is accepted."""

    def __init__(
        self,
        runner: Runner,
        twins: Twins,
        script: Mapping[str, Any],
        accepts: Any,
        stopping: threading.Event,
    ) -> None:
        self._runner, self._twins, self._script = runner, twins, script
        self._accepts, self._stopping = accepts, stopping

    def add(self, app: Flask) -> None:
        """Add every route."""
        fal, replicate, bfl, kie = (
            self._twins.fal,
            self._twins.replicate,
            self._twins.bfl,
            self._twins.kie,
        )
        self._add(app, fal, "POST", "/<path:path>", self._submit)
        self._add(app, fal, "GET", "/<path:path>/requests/<task_id>/status", self._poll)
        self._add(app, fal, "GET", "/<path:path>/requests/<task_id>", self._fal_result)
        self._add(app, replicate, "POST", "/<path:path>", self._submit)
        self._add(app, replicate, "GET", "/v1/predictions/<task_id>", self._poll)
        self._add(app, replicate, "GET", "/v1/account", lambda _: {"type": "user"})
        self._add(app, replicate, "GET", "/v1/files/<name>", self._private_file)
        secret = "/v1/webhooks/default/secret"  # noqa: S105 - a path
        self._add(app, replicate, "GET", secret, lambda _: {"key": replicate.secret})
        self._add(app, bfl, "POST", "/<path:path>", self._submit)
        self._add(app, bfl, "GET", "/v1/get_result", self._poll)
        self._add(app, bfl, "GET", "/v1/credits", lambda _: {"credits": float(_CREDITS)})
        self._add(app, kie, "POST", "/api/v1/jobs/createTask", self._submit)
        self._add(app, kie, "GET", "/api/v1/jobs/recordInfo", self._poll)
        self._add(
            app,
            kie,
            "GET",
            "/api/v1/chat/credit",
            lambda _: {"code": 200, "msg": "success", "data": _CREDITS},
        )
        self._add_keys(app)

    def _add(self, app: Flask, twin: Twin, method: str, path: str, view: Any) -> None:
        def run(**arguments: str) -> ResponseReturnValue:
            if not self._accepts(twin.key(request.headers)):
                self._runner.tasks.count("unauthorized")
                return _error(twin, 401, "no such API key")
            answer: ResponseReturnValue = view(twin, **arguments)
            return answer

        rule = f"/{twin.name}{path}"
        app.add_url_rule(rule, f"{method} {rule}", run, methods=[method])

    def _add_keys(self, app: Flask) -> None:
        """Add the public keys of fal, and the switches for them."""
        fal = self._twins.fal

        @app.get("/fal/.well-known/jwks.json")
        def jwks() -> ResponseReturnValue:
            return html_page(503, "away") if fal.keys_away else fal.jwks()

        @app.post("/sandbox/keys")
        def keys() -> ResponseReturnValue:
            """Rotate the keys of a provider (``rotate``), or take fal's public keys away."""
            asked: Any = request.get_json(force=True, silent=True) or {}
            fal.keys_away = bool(asked.get("fal_away", fal.keys_away))
            if twin := getattr(self._twins, str(asked.get("rotate")), None):
                twin.rotate()
            return {"fal_away": fal.keys_away}

    def _submit(self, twin: Twin, path: str = "") -> ResponseReturnValue:
        body: Any = request.get_json(force=True, silent=True)
        try:
            asked = twin.read(path, request.args, body, self._script)
        except RefusedError as error:
            self._runner.tasks.count("refused")
            return _error(twin, error.status or 422, str(error))
        task = self._runner.accept(asked, body)
        answer = task.request.script.answer
        if answer.mode == "lost":
            connection: socket.socket = request.environ[CONNECTION]
            connection.shutdown(socket.SHUT_RDWR)
            return "", 500  # never read
        if answer.mode == "slow":
            self._stopping.wait(answer.seconds)
        return twin.submitted(task), twin.answers_with

    def _poll(self, twin: Twin, task_id: str = "", path: str = "") -> ResponseReturnValue:
        asked = task_id or request.args.get("id") or request.args.get("taskId") or ""
        task, fault = self._asked(twin, asked)
        if task is None:
            return fault
        urls = urls_of(task, self._runner.files)
        return twin.polled(task, urls), 202 if path and task.status == "running" else 200

    def _fal_result(self, _twin: Twin, path: str, task_id: str) -> ResponseReturnValue:  # noqa: ARG002 - an argument of the route
        fal = self._twins.fal
        task, fault = self._asked(fal, task_id)
        if task is None:
            return fault
        if task.status == "running":
            return {"detail": "Request is still in progress"}, 400
        result = fal.result(task, urls_of(task, self._runner.files))
        return result, 422 if task.status == "failed" else 200

    def _private_file(self, _twin: Twin, name: str) -> ResponseReturnValue:
        """Lead to a file at its own address, now that the key was right."""
        return redirect(f"/file/{name}")

    def _asked(self, twin: Twin, task_id: str) -> tuple[Task | None, ResponseReturnValue]:
        """Return the task that is asked for, or the answer in its place."""
        self._runner.tasks.count("results_asked")
        task = self._runner.tasks.get(task_id)
        if task is None or task.request.twin is not twin:
            return None, _error(twin, 404, "no such task")
        fault = task.request.script.result
        if fault.applies_to(task.count_read()):
            if fault.mode == "gone":
                return None, _error(twin, 404, "no such task")
            if fault.mode == "gateway":
                return None, html_page(502, "502 Bad Gateway")
        return task, ""


def _error(twin: Twin, status: int, text: str) -> ResponseReturnValue:
    """Return an error as the provider writes it; kie.ai's have status 200."""
    if twin.name == "kie":
        return {"code": status, "msg": text, "data": None}, 200
    return {"detail": text}, status
