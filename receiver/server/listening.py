"""The socket of ``receiver serve``: handed over by systemd, or made here."""

import errno
import os
import socket
import time
from collections.abc import Mapping

import structlog

from receiver.errors import ConfigurationError

log = structlog.get_logger(__name__)

# Callers that may wait while nobody takes them, as during a reload.
BACKLOG = 2048
# Seconds we wait for an address that is taken: children of a killed predecessor let go of it as soon as they hear of its death.
PATIENCE = 2.0
# The first socket that systemd hands over (sd_listen_fds(3)).
_HANDED_OVER = 3


def listen(host: str, port: int, *, environ: Mapping[str, str] = os.environ) -> socket.socket:
    """Return a listening socket: systemd's, if it gave us one, else one at ``host`` and ``port``.

    Raise ConfigurationError if nobody can listen there.
    """
    if environ.get("LISTEN_PID") == str(os.getpid()) and environ.get("LISTEN_FDS", "0") != "0":
        return socket.socket(fileno=_HANDED_OVER)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.create_server(
                (host, port),
                family=socket.AF_INET6 if ":" in host else socket.AF_INET,
                backlog=BACKLOG,
            )
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                taken = f"PORT, --host, --port: cannot listen on {host}:{port} ({os.strerror(error.errno or 0)}); choose another"
                raise ConfigurationError([taken]) from error
        log.info("waiting for the address, which somebody has", host=host, port=port)
        time.sleep(0.25)


def url_of(listener: socket.socket) -> str:
    """Return the address that a socket answers at, with the port the system chose if it was left to it."""
    if listener.family == socket.AF_UNIX:  # systemd's, if it was told so
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
