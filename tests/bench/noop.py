"""The yardstick of the callback path: a route that only reads the body and answers."""

from flask import Flask, Response, jsonify, request


def create_app() -> Flask:
    """Return the application; it runs under the receiver's own gunicorn configuration."""
    app = Flask(__name__)

    @app.post("/callback/<path:ticket>")
    def receive(ticket: str) -> Response:
        request.get_data(cache=False)
        return jsonify(ok=True, ref=ticket[:26])

    @app.get("/healthz")
    def healthz() -> Response:
        return jsonify(ok=True)

    return app
