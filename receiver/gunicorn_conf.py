"""gunicorn's configuration; the Procfile shows the command.

The environment is read here, once, for the arbiter and all its workers.
"""

from receiver.telemetry import structlog_alone  # noqa: F401, I001 - before all that imports structlog

import gc
import os
import resource
import socket
import struct
import sys
from pathlib import Path
from typing import Any, NoReturn

import structlog

from receiver import data_dir, failpoints
from receiver.errors import ConfigurationError, ReceiverError
from receiver.installation import version
from receiver.server.arrivals import MAX_FIRST_LINE, READ_TIMEOUT
from receiver.server.child import is_supervised, report_ready
from receiver.server.gunicorn_log import GunicornLog
from receiver.server.gunicorn_worker import DrainingWorker
from receiver.server.listening import all_interfaces, with_mapped
from receiver.settings import Settings
from receiver.telemetry import metric_files, tracing
from receiver.telemetry.printable import printable

_OUR_APPLICATION = "receiver.web:create_app()"
_WRONG = 2  # exit status for a wrong configuration, as of our own commands


def _give_up(error: ReceiverError) -> NoReturn:
    """Print what is wrong, each mistake on a line, and exit."""
    mistakes = error.mistakes if isinstance(error, ConfigurationError) else None
    print(  # noqa: T201 - no log yet
        *(map(printable, ["the configuration is wrong:", *mistakes] if mistakes else [str(error)])),
        sep="\n",
        file=sys.stderr,
    )
    sys.exit(_WRONG if mistakes else 1)


try:
    _settings = Settings.load(os.environ)
    tracing.require_packages(os.environ)
except ReceiverError as _error:
    _give_up(_error)

failpoints.arm(os.environ)

# On all interfaces unless HOST is set: an operator who runs gunicorn directly expects calls from
# outside.
_host = _settings.host or "::"
_host = all_interfaces() if _host == "::" else _host
bind = f"[{_host}]:{_settings.port}" if ":" in _host else f"{_host}:{_settings.port}"
workers = _settings.web_concurrency
worker_class = DrainingWorker
logger_class = GunicornLog
# Clients that wait for pictures have threads of their own: they never take those of callbacks.
threads = 16 + _settings.waiting_clients
# Seconds for requests in progress at a stop, for a worker that hangs, for an idle connection.
graceful_timeout = 8
timeout = 60
keepalive = 15
# Connections of one process, and descriptors that it needs besides: ledger, archive, files. At the
# limit those that have sent no request are closed for new ones.
MAX_CONNECTIONS, _OTHER_FILES = 4096, 256
_open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
if _open_files == resource.RLIM_INFINITY:
    _open_files = 2 * MAX_CONNECTIONS
worker_connections = max(4 * threads, min(MAX_CONNECTIONS, _open_files - _OTHER_FILES))
backlog = 2048
limit_request_line = MAX_FIRST_LINE - len("\r\n")
# Headers of a proxy such as X-Forwarded-Proto are ignored unless the operator names the proxy;
# gunicorn would trust loopback by default.
forwarded_allow_ips = with_mapped(os.environ.get("FORWARDED_ALLOW_IPS", ""))
# Paths contain tickets, so there is no access log, and no warnings of gunicorn, which quote
# unreadable requests. Callbacks are logged by their ref.
accesslog = None
errorlog = "-"
loglevel = "error"
# We do not use gunicorn's control socket, and a user without a home directory cannot create one.
control_socket_disable = True
# The heartbeat file must not wait for a busy disk.
_MEMORY = "/dev/shm"  # noqa: S108 - gunicorn creates a private file there
worker_tmp_dir = _MEMORY if Path(_MEMORY).is_dir() else None


def _allow_open_files(number: int) -> None:
    """Raise the limit of open files, as far as we may; workers inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < number:
        wanted = number if hard == resource.RLIM_INFINITY else min(number, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def on_starting(server: Any) -> None:
    """Prepare what all workers share, once, before the first one is forked."""
    from receiver.telemetry import logs  # noqa: PLC0415 - only a running server logs

    data_dir.write_for_owner_only()
    _allow_open_files(worker_connections + _OTHER_FILES)
    logs.configure(_settings.log_level, _settings.log_format, _settings.secrets())
    try:
        data_dir.make_data_dir(_settings.data_dir)
        data_dir.require_writable(_settings.data_dir)
        if not is_supervised(os.environ):  # then `receiver serve` has said it
            data_dir.warn_of_root()
        metric_files.share(_settings.data_dir)
        # Imported here, its memory is shared by all workers. It creates metrics: after share.
        from receiver import web  # noqa: F401, PLC0415
        from receiver.services import Services  # noqa: PLC0415

        Services(_settings).open().close()
        if server.app.app_uri == _OUR_APPLICATION:
            server.app.wsgi()  # creates it; somebody else's may start threads, so not that
    except ReceiverError as error:
        _give_up(error)


def when_ready(server: Any) -> None:
    """Prepare the fork of the workers, and limit the silence on every connection.

    Without the limit a client could occupy a thread that reads its body.
    """
    structlog.get_logger(__name__).info("web started", version=version(), pid=os.getpid())
    gc.freeze()  # the collector would write to every object, and undo the sharing of memory
    for listener in server.LISTENERS:
        # Linux copies the option to accepted sockets. gunicorn's timeout is for processes only.
        listener.sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", READ_TIMEOUT, 0)
        )


def post_fork(_server: Any, _worker: Any) -> None:
    """Reserve the space of a worker's metrics before it counts anything."""
    metric_files.reserve_space()


def post_worker_init(worker: Any) -> None:
    """Open the services of one worker before it takes its first request."""
    from receiver.services import Services  # noqa: PLC0415 - as above
    from receiver.web import callback, state  # noqa: PLC0415 - as above
    from receiver.web.fault_log import log_faults  # noqa: PLC0415 - as above
    from receiver.web.health import health_checks  # noqa: PLC0415 - as above

    state.attach(worker.wsgi, Services(_settings).open())
    if isinstance(worker.wsgi.wsgi_app, callback.DirectCallbacks):
        worker.handle_in_main_loop(callback.is_usual)
    state.stops_when(worker.wsgi, lambda: not worker.alive)
    with worker.wsgi.app_context():
        log_faults(health_checks(), lambda: not worker.alive)
    tracing.configure(os.environ)
    report_ready()
