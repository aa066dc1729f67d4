"""The listening socket of ``receiver serve``: from systemd, or created here."""

import errno
import os
import socket
import time
from collections.abc import Mapping

import structlog

from receiver.errors import ConfigurationError

log = structlog.get_logger(__name__)

# Connections that may wait while no process accepts them, as during a reload.
BACKLOG = 2048
# Seconds to wait for an address in use: children of a killed predecessor close it soon.
ADDRESS_TIMEOUT = 2.0
# The first socket that systemd passes (sd_listen_fds(3)).
_SYSTEMD_SOCKET = 3


def listen(host: str, port: int, *, environ: Mapping[str, str] = os.environ) -> socket.socket:
    """Return a listening socket: that of systemd if there is one, else at ``host`` and ``port``.

    Raise ConfigurationError if the address cannot be used.
    """
    if environ.get("LISTEN_PID") == str(os.getpid()) and environ.get("LISTEN_FDS", "0") != "0":
        return socket.socket(fileno=_SYSTEMD_SOCKET)
    deadline = time.monotonic() + ADDRESS_TIMEOUT
    while True:
        try:
            return socket.create_server(
                (host, port),
                family=socket.AF_INET6 if ":" in host else socket.AF_INET,
                backlog=BACKLOG,
            )
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                why = os.strerror(error.errno or 0)
                mistake = f"cannot listen on {host}:{port} ({why}); choose another"
                raise ConfigurationError([f"PORT, --host, --port: {mistake}"]) from error
        log.info("address in use, waiting", host=host, port=port)
        time.sleep(0.25)


def url_of(listener: socket.socket) -> str:
    """Return the URL of a socket, with the port that the system chose if ``port`` was 0."""
    if listener.family == socket.AF_UNIX:  # from systemd
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
