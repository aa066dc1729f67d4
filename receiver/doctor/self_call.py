"""Calling our own callback through PUBLIC_URL, as the provider would: name, TLS, redirects, method, size of bodies.

It is called with the ticket of no job, which is answered but not stored. A call from inside may fail where one from outside would not (some
routers do not lead back in), so the remedies say so.
"""

import http.client
import json
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from receiver.doctor.trouble import Trouble
from receiver.ingest.tickets import CANARY, Tickets
from receiver.net.ip_ranges import refusal_reason

_PATIENCE = 10.0  # seconds for each step
_LONGEST_ANSWER = 64 * 1024
# OpenSSL's codes of what is wrong with a certificate.
_CERTIFICATE = {
    10: ("the certificate has expired", "renew it"),
    18: (
        "the certificate is signed by itself",
        "get one that everybody trusts, such as Let's Encrypt's",
    ),
    19: (
        "the certificate's chain ends in one that is signed by itself",
        "get a certificate that everybody trusts",
    ),
    20: (
        "the certificate's chain is incomplete",
        "have the server send the intermediate certificates too (fullchain.pem)",
    ),
    21: (
        "the certificate's chain is incomplete",
        "have the server send the intermediate certificates too (fullchain.pem)",
    ),
    62: ("the certificate is for another name", "get one for the host of PUBLIC_URL"),
}
_NOBODY = (
    "start `receiver serve`, and let the port through proxy and firewall; or correct PUBLIC_URL"
)
_BY_STATUS = {
    401: (
        "somebody asks for a login",
        "let /callback/ through without one: tickets are its protection",
    ),
    403: (
        "somebody forbids it",
        "let /callback/ through: firewalls and bot filters must not judge callbacks",
    ),
    404: (
        "nobody there knows /callback/",
        "have the proxy pass /callback/ on unchanged, or correct the path of PUBLIC_URL",
    ),
    405: ("POST is not allowed", "have the proxy pass POST on"),
    411: ("a length is asked for", "have the proxy pass bodies on as they are"),
    413: (
        "the body is too large for it",
        "raise the proxy's limit to CALLBACK_MAX_BYTES (nginx: client_max_body_size)",
    ),
    502: (
        "the proxy reaches nobody behind it",
        "start `receiver serve`, and point the proxy at it",
    ),
    503: (
        "the service, or its proxy, is not available",
        "look at /readyz, and whether `receiver serve` runs",
    ),
    504: ("the proxy waits in vain for the service", "look at /readyz and at the proxy's timeouts"),
}


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


def call(public_url: str, tickets: Tickets, largest: int, *, provider: str) -> str:
    """Post a small and a large body to our own callback; return what was found, or raise Trouble."""
    parts = urlsplit(public_url)
    host, port = parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme]
    _require_outside(host, _addresses(host, port), provider)
    path = f"{parts.path}/callback/{tickets.sign(CANARY)}"
    seconds, days = _call_once(public_url, (parts.scheme, host, port), path, 200)
    _call_once(public_url, (parts.scheme, host, port), path, largest)
    until = "" if days is None else f", the certificate is good for {days:.0f} days"
    return f"{public_url} leads to us, answered in {seconds * 1000:.0f} ms, bodies of {largest} bytes pass{until}"


def _call_once(
    public_url: str, place: tuple[str, str, int], path: str, size: int
) -> tuple[float, float | None]:
    """Post one body; return the seconds it took and the days the certificate is good for."""
    began = time.monotonic()
    with closing(_connected(*place)) as connection:
        days = _days_left(connection.sock)
        _judge(public_url, _post(connection, path, _body(size)), size)
    return time.monotonic() - began, days


def _body(size: int) -> bytes:
    frame = b'{"canary":"%s"}'
    return frame % (b"x" * max(0, size - len(frame) + 2))


def _addresses(host: str, port: int) -> list[str]:
    try:
        return sorted(
            {str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        )
    except OSError as error:
        raise Trouble(
            f"the name {host} has no address ({error.strerror})",
            "make its DNS record, or correct PUBLIC_URL",
        ) from error


def _require_outside(host: str, addresses: list[str], provider: str) -> None:
    """Raise Trouble for an inside address, which is of no use to a provider outside; the sandbox, beside us, may use it."""
    with suppress(ValueError):  # a name: the provider is outside
        if refusal_reason(ip_address(urlsplit(provider).hostname or "")) is not None:
            return
    for address in addresses:
        if (reason := refusal_reason(ip_address(address))) is not None:
            raise Trouble(
                f"{host} leads to {address} ({reason}), where the provider cannot call",
                "name a public address in PUBLIC_URL",
            )


def _connected(scheme: str, host: str, port: int) -> http.client.HTTPConnection:
    kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
    connection = kind(host, port, timeout=_PATIENCE)
    try:
        connection.connect()
    except ssl.SSLCertVerificationError as error:
        text, remedy = _CERTIFICATE.get(
            error.verify_code, (error.verify_message, "get a certificate that everybody trusts")
        )
        raise Trouble(f"{host}: {text}", remedy) from error
    except ssl.SSLError as error:
        raise Trouble(
            f"{host}: no TLS is spoken at port {port} ({error.reason})",
            "let the proxy speak TLS, or correct PUBLIC_URL",
        ) from error
    except OSError as error:
        hint = "; if only this machine cannot reach it (some routers do not lead back in), use --mode webhook after removing doctor.json"
        raise Trouble(
            f"nobody answers at {host}:{port} ({error.strerror or error})", _NOBODY + hint
        ) from error
    return connection


def _post(connection: http.client.HTTPConnection, path: str, body: bytes) -> _Answer:
    try:
        with suppress(
            BrokenPipeError, ConnectionResetError
        ):  # refused before it was read to its end: the answer may say why
            connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return _Answer(
            response.status,
            {name.lower(): value for name, value in response.getheaders()},
            response.read(_LONGEST_ANSWER),
        )
    except (OSError, http.client.HTTPException) as error:
        text = f"no answer to a body of {len(body)} bytes ({type(error).__name__})"
        raise Trouble(
            text,
            "look into the proxy's log; it must pass POST bodies on, whatever their size up to CALLBACK_MAX_BYTES",
        ) from error


def _judge(public_url: str, answer: _Answer, size: int) -> None:
    told = _object(answer.body)
    if 300 <= answer.status < 400:  # noqa: PLR2004 - HTTP's redirects
        where = urlsplit(answer.headers.get("location", ""))
        target = f"{where.scheme}://{where.netloc}" if where.netloc else "another path"
        raise Trouble(
            f"{public_url} redirects to {target}: POSTs get lost there",
            "set PUBLIC_URL to that address, or switch the redirect off",
        )
    if told.get("error") == "no such callback":
        raise Trouble(
            f"{public_url} leads to a receiver that does not know our tickets",
            "give every machine the same CALLBACK_SECRETS; or it is another installation: correct PUBLIC_URL",
        )
    if answer.status in _BY_STATUS:
        text, remedy = _BY_STATUS[answer.status]
        raise Trouble(
            f"{public_url} answers {answer.status} to a body of {size} bytes: {text}", remedy
        )
    if answer.status != http.client.OK or told.get("ref") != CANARY:
        raise Trouble(
            f"{public_url} answers {answer.status}, but not as we do",
            "something else answers there: correct proxy or PUBLIC_URL",
        )
    if told.get("size") != len(_body(size)):
        raise Trouble(
            f"of {size} bytes {told.get('size')} came", "have the proxy pass bodies on as they are"
        )


def _object(body: bytes) -> dict[str, object]:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _days_left(sock: socket.socket) -> float | None:
    if not isinstance(sock, ssl.SSLSocket):
        return None
    certificate = sock.getpeercert() or {}
    return (ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) / 86400
