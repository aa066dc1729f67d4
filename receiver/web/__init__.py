"""The web side: callbacks in, health, API and dashboard out. A factory without side effects; see ``state`` for when services are opened."""

from flask import Flask

from receiver.services import Services
from receiver.web import api, callback, dashboard, health, not_found, request_id, state


def create_app(services: Services | None = None) -> Flask:
    """Return the WSGI application. Without ``services`` they are opened, from the environment, with the first request."""
    app = Flask(__name__)
    # A redirect would turn a POST into a GET and lose the callback: no path is ever tidied up.
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = False
    app.register_blueprint(callback.blueprint)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(api.blueprint)
    app.register_blueprint(dashboard.blueprint)
    request_id.name_requests(
        app
    )  # before the others, so that it has the last word on their answers
    app.after_request(not_found.tell)
    if services is not None:
        state.attach(app, services)
    return app
