"""What a user would write instead: a Flask route that stores callbacks in a queue or database.

Each factory runs under the receiver's gunicorn configuration, like ours and the no-op route. The
peers read the body, parse it and store it durably before they answer. They check no signature and
decide nothing, which is in their favour. PEER_REDIS_PORT and PEER_SQLITE say where they store it.
"""

import json
import os
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, jsonify, request

Store = Callable[[str, bytes], object]


def archive(ref: str, body: str) -> None:
    """Stand for the task of a worker; no worker runs in this benchmark."""


def create_rq_app() -> Flask:
    """Return an application that enqueues each callback with RQ."""
    from redis import Redis  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415 - a peer
    from rq import Queue  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415 - as above

    queue = Queue(connection=Redis(port=int(os.environ["PEER_REDIS_PORT"])))
    return _app(lambda ref, body: queue.enqueue(archive, ref, body.decode()))


def create_celery_app() -> Flask:
    """Return an application that sends each callback as a task of Celery."""
    from celery import Celery  # type: ignore[import-untyped,import-not-found,unused-ignore]  # noqa: PLC0415 - as above

    address = f"redis://127.0.0.1:{os.environ['PEER_REDIS_PORT']}/1"
    celery = Celery("peers", broker=address)
    celery.conf.task_ignore_result = True
    return _app(lambda ref, body: celery.send_task("archive", args=(ref, body.decode())))


def create_sqlite_app() -> Flask:
    """Return an application that commits each callback to SQLite, durably and by itself."""
    local = threading.local()

    def store(ref: str, body: bytes) -> None:
        connection: Any = getattr(local, "connection", None)
        if connection is None:
            connection = local.connection = _connect(os.environ["PEER_SQLITE"])
        with connection:
            connection.execute("INSERT INTO callbacks (ref, body) VALUES (?, ?)", (ref, body))

    return _app(store)


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=30)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS callbacks (ref TEXT, body BLOB)")
    return connection


def _app(store: Store) -> Flask:
    app = Flask(__name__)

    @app.post("/callback/<path:ticket>")
    def receive(ticket: str) -> Response:
        body = request.get_data(cache=False)
        json.loads(body)
        store(ticket[:26], body)
        return jsonify(ok=True, ref=ticket[:26])

    @app.get("/healthz")
    def healthz() -> Response:
        return jsonify(ok=True)

    return app
