"""The listening socket of ``receiver serve``: from systemd, or created here."""

import errno
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import IPv4Network, ip_network

import structlog

from receiver.errors import ConfigurationError

log = structlog.get_logger(__name__)

# Connections that may wait while no process accepts them, as during a reload.
BACKLOG = 2048
# Seconds to wait for an address in use: children of a killed predecessor close it soon.
ADDRESS_TIMEOUT = 2.0
# The first socket that systemd passes (sd_listen_fds(3)).
_SYSTEMD_SOCKET = 3
_ALL = {"::", "0.0.0.0"}  # noqa: S104 - compared with


def listen(host: str, port: int, *, environ: Mapping[str, str] = os.environ) -> socket.socket:
    """Return a listening socket: that of systemd if there is one, else at ``host`` and ``port``.

    "" means all interfaces, IPv6 and IPv4; ``::`` too. Raise ConfigurationError if the address
    cannot be used.
    """
    if environ.get("LISTEN_PID") == str(os.getpid()) and environ.get("LISTEN_FDS", "0") != "0":
        return socket.socket(fileno=_SYSTEMD_SOCKET)
    deadline = time.monotonic() + ADDRESS_TIMEOUT
    while True:
        try:
            return _create(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                number = error.errno or 0
                # Errors of name resolution have negative numbers.
                why = "the name has no address" if number < 0 else os.strerror(number)
                mistake = f"cannot listen on {host or '*'}:{port} ({why}); choose another"
                raise ConfigurationError([f"HOST, PORT, --host, --port: {mistake}"]) from error
        log.info("address in use, waiting", host=host or "*", port=port)
        time.sleep(0.25)


def _create(host: str, port: int) -> socket.socket:
    if host in {"", "::"}:
        host = all_interfaces()
        if host == "::":
            return socket.create_server(
                (host, port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True
            )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def all_interfaces() -> str:
    """Return the address of all interfaces: ``::`` where it also answers IPv4, else 0.0.0.0."""
    if socket.has_dualstack_ipv6():
        with suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as trial:
            trial.bind(("::", 0))
            # gunicorn takes the system's default.
            if not trial.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
                return "::"
    return "0.0.0.0"  # noqa: S104 - asked for


def url_of(listener: socket.socket) -> str:
    """Return the URL of a socket, with the port that the system chose if ``port`` was 0.

    For all interfaces it is the address by which this machine itself can call.
    """
    if listener.family == socket.AF_UNIX:  # from systemd
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    if host in _ALL:
        return f"http://127.0.0.1:{port} (on all interfaces)"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def with_mapped(addresses: str) -> str:
    """Return comma-separated addresses and networks; IPv4 also as an IPv6 socket shows it."""
    found = [one.strip() for one in addresses.split(",") if one.strip()]
    for one in tuple(found):
        with suppress(ValueError):  # "*", or a mistake that gunicorn reports
            network = ip_network(one, strict=False)
            if isinstance(network, IPv4Network):
                found.append(f"::ffff:{network.network_address}/{96 + network.prefixlen}")
    return ",".join(found)
