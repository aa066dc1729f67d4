"""gunicorn's configuration: ``gunicorn -c python:receiver.gunicorn_conf 'receiver.web:create_app()'``.

The environment is read here, once, for the arbiter and all its workers.
"""

import os
import socket
import struct
import sys
from typing import Any, NoReturn

from receiver import data_dir, failpoints
from receiver.errors import ConfigurationError, ReceiverError
from receiver.server.child import say_ready
from receiver.server.gunicorn_worker import DrainingWorker
from receiver.settings import Settings
from receiver.telemetry import metric_files, tracing

_WRONG = 2  # exit status for a wrong configuration, as with our own commands


def _give_up(error: ReceiverError) -> NoReturn:
    """Say what is wrong, every mistake on a line, and end."""
    mistakes = error.mistakes if isinstance(error, ConfigurationError) else None
    print(  # noqa: T201 - no log yet
        *(["the configuration is wrong:", *mistakes] if mistakes else [error]),
        sep="\n",
        file=sys.stderr,
    )
    sys.exit(_WRONG if mistakes else 1)


try:
    _settings = Settings.load(os.environ)
except ReceiverError as _error:
    _give_up(_error)

failpoints.arm(os.environ)

bind = f"0.0.0.0:{_settings.port}"
workers = _settings.web_concurrency
worker_class = DrainingWorker
threads = 16
# Seconds: for requests under way at a stop, for a worker that hangs, for an idle connection kept open.
graceful_timeout = 8
timeout = 60
keepalive = 15
SILENCE = 5  # seconds without a byte of a request that was begun
backlog = 2048
# No X-Forwarded-Proto is believed, nor what else a proxy may say, unless the operator names the proxy; gunicorn would believe loopback.
forwarded_allow_ips = os.environ.get("FORWARDED_ALLOW_IPS", "")
# Paths hold tickets, so there is no access log, nor gunicorn's warnings, which quote requests it cannot read; what happened to a
# callback is logged by its ref.
accesslog = None
errorlog = "-"
loglevel = "error"
# The heartbeat file must not wait for a busy disk.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108, PTH112 - memory, and gunicorn wants a plain text


def on_starting(_server: Any) -> None:
    """Make ready what all workers share, once, before the first of them is forked."""
    from receiver.telemetry import logs  # noqa: PLC0415 - logging belongs to the running server, not to the import

    data_dir.write_for_owner_only()
    logs.configure(_settings.log_level, _settings.log_format, _settings.secrets())
    try:
        data_dir.make_data_dir(_settings.data_dir)
        data_dir.require_writable(_settings.data_dir)
        metric_files.share(_settings.data_dir)
        from receiver.services import Services  # noqa: PLC0415 - it creates metrics: after share

        Services(_settings).open().close()
    except ReceiverError as error:
        _give_up(error)


def when_ready(server: Any) -> None:
    """Give every connection a bound for its silences: whoever says nothing must not keep a thread from those who do."""
    for listener in server.LISTENERS:
        # Linux hands the option on to accepted sockets. gunicorn's own timeout watches processes, not connections.
        listener.sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", SILENCE, 0)
        )


def post_fork(_server: Any, _worker: Any) -> None:
    """Reserve the space of a worker's metrics before it counts anything."""
    metric_files.reserve_space()


def post_worker_init(worker: Any) -> None:
    """Open the services of one worker before it takes its first request."""
    from receiver.services import Services  # noqa: PLC0415 - as above
    from receiver.web import state  # noqa: PLC0415 - as above

    state.attach(worker.wsgi, Services(_settings).open())
    state.stops_when(worker.wsgi, lambda: not worker.alive)
    tracing.configure(os.environ)
    say_ready()
