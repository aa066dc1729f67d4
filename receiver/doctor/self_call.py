"""Calls our own callback through PUBLIC_URL, as the provider would.

This finds faults of name, TLS, redirects, method and size limits. The ticket belongs to no job; the
call is answered but not stored. Some routers do not route from inside to their own public address,
so a call from here may fail where one from outside would not; the remedy says so.
"""

import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from threading import Timer
from urllib.parse import urlsplit

from receiver.doctor.checks import Trouble
from receiver.ingest.tickets import CANARY, Tickets
from receiver.net.ip_ranges import refusal_reason

_TIMEOUT = 10.0  # seconds for each step
_CALL = 20.0  # seconds for a call; a server that sends a byte now and then is never silent
_MAX_RESPONSE = 64 * 1024
# OpenSSL's error codes for certificates, each with text and remedy.
_CERTIFICATE = {
    10: ("the certificate has expired", "renew it"),
    18: (
        "the certificate is self-signed",
        "get one that is trusted everywhere, such as from Let's Encrypt",
    ),
    19: (
        "the certificate's chain ends in a self-signed one",
        "get a certificate that is trusted everywhere",
    ),
    20: (
        "the certificate's chain is incomplete",
        "configure the server to send the intermediate certificates too (fullchain.pem)",
    ),
    21: (
        "the certificate's chain is incomplete",
        "configure the server to send the intermediate certificates too (fullchain.pem)",
    ),
    62: ("the certificate is for another name", "get one for the host of PUBLIC_URL"),
}
_NO_ANSWER = (
    "start `receiver serve`, and open the port in proxy and firewall; or correct PUBLIC_URL"
)
_BY_STATUS = {
    401: (
        "a login is required",
        "let /callback/ through without one: it is protected by tickets",
    ),
    403: (
        "it is forbidden",
        "let /callback/ through: firewalls and bot filters must not block callbacks",
    ),
    404: (
        "/callback/ is unknown there",
        "configure the proxy to pass /callback/ on unchanged, or correct the path of PUBLIC_URL",
    ),
    405: ("POST is not allowed", "configure the proxy to pass POST on"),
    411: ("a length is required", "configure the proxy to pass bodies on unchanged"),
    413: (
        "the body is too large",
        "raise the proxy's limit to CALLBACK_MAX_BYTES (nginx: client_max_body_size)",
    ),
    502: (
        "the proxy does not reach the service",
        "start `receiver serve`, and point the proxy at it",
    ),
    503: (
        "the service, or its proxy, is not available",
        "look at /readyz, and whether `receiver serve` runs",
    ),
    504: (
        "the service did not answer the proxy in time",
        "look at /readyz and at the proxy's timeouts",
    ),
}


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    headers: Mapping[str, str]
    body: bytes


def call(public_url: str, tickets: Tickets, largest: int, *, provider: str) -> str:
    """Post a small and a large body to our own callback.

    Return a text about what was found; raise Trouble if something is wrong.
    """
    parts = urlsplit(public_url)
    host, port = parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme]
    _require_outside(host, _addresses(host, port), provider)
    path = f"{parts.path}/callback/{tickets.sign(CANARY)}"
    seconds, days = _call_once(public_url, (parts.scheme, host, port), path, 200)
    _call_once(public_url, (parts.scheme, host, port), path, largest)
    until = "" if days is None else f", the certificate is valid for {days:.0f} days"
    return (
        f"{public_url} leads to us, answered in {seconds * 1000:.0f} ms, "
        f"bodies of {largest} bytes pass{until}"
    )


def _call_once(
    public_url: str, place: tuple[str, str, int], path: str, size: int
) -> tuple[float, float | None]:
    """Post one body; return the seconds it took and the days the certificate is still valid."""
    began = time.monotonic()
    with closing(_connected(*place)) as connection:
        days = _days_left(connection.sock)
        with _ended_after(connection.sock, _CALL):
            response = _post(connection, path, _body(size))
        _check_response(public_url, response, size)
    return time.monotonic() - began, days


@contextmanager
def _ended_after(sock: socket.socket, seconds: float) -> Iterator[None]:
    """Shut the connection down if the block takes longer."""

    def end() -> None:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    timer = Timer(seconds, end)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _body(size: int) -> bytes:
    template = b'{"canary":"%s"}'
    return template % (b"x" * max(0, size - len(template) + 2))


def _addresses(host: str, port: int) -> list[str]:
    try:
        return sorted(
            {str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        )
    except OSError as error:
        raise Trouble(
            f"the name {host} has no address ({error.strerror})",
            "create its DNS record, or correct PUBLIC_URL",
        ) from error


def _require_outside(host: str, addresses: list[str], provider: str) -> None:
    """Raise Trouble for an internal address, unless the provider is internal too (the sandbox)."""
    with suppress(ValueError):  # a name: the provider is external
        if refusal_reason(ip_address(urlsplit(provider).hostname or "")) is not None:
            return
    for address in addresses:
        if (reason := refusal_reason(ip_address(address))) is not None:
            raise Trouble(
                f"{host} leads to {address} ({reason}), where the provider cannot call",
                "use a public address in PUBLIC_URL",
            )


def _connected(scheme: str, host: str, port: int) -> http.client.HTTPConnection:
    kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
    connection = kind(host, port, timeout=_TIMEOUT)
    try:
        connection.connect()
    except ssl.SSLCertVerificationError as error:
        text, remedy = _CERTIFICATE.get(
            error.verify_code,
            (error.verify_message, "get a certificate that is trusted everywhere"),
        )
        raise Trouble(f"{host}: {text}", remedy) from error
    except ssl.SSLError as error:
        raise Trouble(
            f"{host}: port {port} does not use TLS ({error.reason})",
            "configure TLS in the proxy, or correct PUBLIC_URL",
        ) from error
    except OSError as error:
        hint = (
            "; if only this machine cannot reach it (some routers do not route back in), use "
            "--mode webhook after removing doctor.json"
        )
        raise Trouble(
            f"no answer at {host}:{port} ({error.strerror or error})", _NO_ANSWER + hint
        ) from error
    return connection


def _post(connection: http.client.HTTPConnection, path: str, body: bytes) -> _Response:
    try:
        with suppress(
            BrokenPipeError, ConnectionResetError
        ):  # the body was refused before its end; the answer may say why
            connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return _Response(
            response.status,
            {name.lower(): value for name, value in response.getheaders()},
            response.read(_MAX_RESPONSE),
        )
    except (OSError, http.client.HTTPException) as error:
        text = f"no answer to a body of {len(body)} bytes ({type(error).__name__})"
        raise Trouble(
            text,
            "look into the proxy's log; it must pass on POST bodies of up to CALLBACK_MAX_BYTES",
        ) from error


def _check_response(public_url: str, answer: _Response, size: int) -> None:
    fields = _object(answer.body)
    if 300 <= answer.status < 400:  # noqa: PLR2004 - HTTP's redirects
        where = urlsplit(answer.headers.get("location", ""))
        target = f"{where.scheme}://{where.netloc}" if where.netloc else "another path"
        raise Trouble(
            f"{public_url} redirects to {target}: a POST is lost there",
            "set PUBLIC_URL to that address, or turn the redirect off",
        )
    if fields.get("error") == "no such callback":
        raise Trouble(
            f"{public_url} leads to a receiver that does not know our tickets",
            "set the same CALLBACK_SECRETS on every machine; or, if it is another installation, "
            "correct PUBLIC_URL",
        )
    if answer.status in _BY_STATUS:
        text, remedy = _BY_STATUS[answer.status]
        raise Trouble(
            f"{public_url} answers {answer.status} to a body of {size} bytes: {text}", remedy
        )
    if answer.status != http.client.OK or fields.get("ref") != CANARY:
        raise Trouble(
            f"{public_url} answers {answer.status}, but not like this service",
            "something else answers there: correct proxy or PUBLIC_URL",
        )
    if fields.get("size") != len(_body(size)):
        raise Trouble(
            f"of {size} bytes {fields.get('size')} arrived",
            "configure the proxy to pass bodies on unchanged",
        )


def _object(body: bytes) -> dict[str, object]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _days_left(sock: socket.socket) -> float | None:
    if not isinstance(sock, ssl.SSLSocket):
        return None
    certificate = sock.getpeercert() or {}
    return (ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) / 86400
