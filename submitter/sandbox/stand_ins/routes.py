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
from submitter.sandbox.stand_ins.bfl import BflStandIn
from submitter.sandbox.stand_ins.fal import FalStandIn
from submitter.sandbox.stand_ins.kie import KieStandIn
from submitter.sandbox.stand_ins.replicate import ReplicateStandIn
from submitter.sandbox.stand_ins.stand_in import StandIn, urls_of
from submitter.sandbox.tasks import Task

_CREDITS = 10_000


@dataclass(frozen=True, slots=True)
class StandIns:
    """The stand-ins of one sandbox."""

    fal: FalStandIn
    replicate: ReplicateStandIn
    bfl: BflStandIn
    kie: KieStandIn

    @classmethod
    def at(cls, url: str) -> "StandIns":
        """Return the stand-ins, served below ``url``, with new keys."""
        return cls(FalStandIn(url), ReplicateStandIn(url), BflStandIn(url), KieStandIn(url))

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


class StandInRoutes:
    """Adds the routes; ``accepts`` tells whether an API key is accepted."""

    def __init__(
        self,
        runner: Runner,
        stand_ins: StandIns,
        script: Mapping[str, Any],
        accepts: Any,
        stopping: threading.Event,
    ) -> None:
        self._runner, self._stand_ins, self._script = runner, stand_ins, script
        self._accepts, self._stopping = accepts, stopping

    def add(self, app: Flask) -> None:
        """Add every route."""
        fal, replicate, bfl, kie = (
            self._stand_ins.fal,
            self._stand_ins.replicate,
            self._stand_ins.bfl,
            self._stand_ins.kie,
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

    def _add(self, app: Flask, stand_in: StandIn, method: str, path: str, view: Any) -> None:
        def run(**arguments: str) -> ResponseReturnValue:
            if not self._accepts(stand_in.key(request.headers)):
                self._runner.tasks.count("unauthorized")
                return _error(stand_in, 401, "no such API key")
            answer: ResponseReturnValue = view(stand_in, **arguments)
            return answer

        rule = f"/{stand_in.name}{path}"
        app.add_url_rule(rule, f"{method} {rule}", run, methods=[method])

    def _add_keys(self, app: Flask) -> None:
        """Add the public keys of fal, and the switches for them."""
        fal = self._stand_ins.fal

        @app.get("/fal/.well-known/jwks.json")
        def jwks() -> ResponseReturnValue:
            return html_page(503, "away") if fal.keys_away else fal.jwks()

        @app.post("/sandbox/keys")
        def keys() -> ResponseReturnValue:
            """Rotate the keys of a provider (``rotate``), or make fal's public keys unavailable."""
            asked: Any = request.get_json(force=True, silent=True) or {}
            fal.keys_away = bool(asked.get("fal_away", fal.keys_away))
            if stand_in := getattr(self._stand_ins, str(asked.get("rotate")), None):
                stand_in.rotate()
            return {"fal_away": fal.keys_away}

    def _submit(self, stand_in: StandIn, path: str = "") -> ResponseReturnValue:
        body: Any = request.get_json(force=True, silent=True)
        try:
            asked = stand_in.read(path, request.args, body, self._script)
        except RefusedError as error:
            self._runner.tasks.count("refused")
            return _error(stand_in, error.status or 422, str(error))
        task = self._runner.accept(asked, body)
        answer = task.request.script.answer
        if answer.mode == "lost":
            connection: socket.socket = request.environ[CONNECTION]
            connection.shutdown(socket.SHUT_RDWR)
            return "", 500  # never read
        if answer.mode == "slow":
            self._stopping.wait(answer.seconds)
        return stand_in.submitted(task), stand_in.answers_with

    def _poll(self, stand_in: StandIn, task_id: str = "", path: str = "") -> ResponseReturnValue:
        asked = task_id or request.args.get("id") or request.args.get("taskId") or ""
        task, fault = self._asked(stand_in, asked)
        if task is None:
            return fault
        urls = urls_of(task, self._runner.files)
        return stand_in.polled(task, urls), 202 if path and task.status == "running" else 200

    def _fal_result(self, _stand_in: StandIn, path: str, task_id: str) -> ResponseReturnValue:  # noqa: ARG002 - an argument of the route
        fal = self._stand_ins.fal
        task, fault = self._asked(fal, task_id)
        if task is None:
            return fault
        if task.status == "running":
            return {"detail": "Request is still in progress"}, 400
        result = fal.result(task, urls_of(task, self._runner.files))
        return result, 422 if task.status == "failed" else 200

    def _private_file(self, _stand_in: StandIn, name: str) -> ResponseReturnValue:
        """Redirect to a file's own address, after the key was checked."""
        return redirect(f"/file/{name}")

    def _asked(self, stand_in: StandIn, task_id: str) -> tuple[Task | None, ResponseReturnValue]:
        """Return the requested task, or an error answer instead."""
        self._runner.tasks.count("results_asked")
        task = self._runner.tasks.get(task_id)
        if task is None or task.request.stand_in is not stand_in:
            return None, _error(stand_in, 404, "no such task")
        fault = task.request.script.result
        if fault.applies_to(task.count_read()):
            if fault.mode == "gone":
                return None, _error(stand_in, 404, "no such task")
            if fault.mode == "gateway":
                return None, html_page(502, "502 Bad Gateway")
        return task, ""


def _error(stand_in: StandIn, status: int, text: str) -> ResponseReturnValue:
    """Return an error as the provider writes it; kie.ai's have status 200."""
    if stand_in.name == "kie":
        return {"code": status, "msg": text, "data": None}, 200
    return {"detail": text}, status
