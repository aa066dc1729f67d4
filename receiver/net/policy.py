"""The address policy: which URLs and IP addresses the service may connect to.

Result URLs come from outside. Without these rules, anyone who can report a result could make the
service read from its own network (SSRF). ``check_url`` checks the URL and every redirect;
``check_address`` checks each address of the host right before connecting to it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import quote

import idna

from receiver.errors import AddressRefusedError
from receiver.net.ip_ranges import is_public, needs_own_entry, refusal_reason

MAX_URL = 8192  # characters
DEFAULT_PORTS = {"http": 80, "https": 443}
_WEB_PORTS = frozenset(DEFAULT_PORTS.values())

_URL = re.compile(r"(https?)://([^/?#]*)([^?#]*)(\?[^#]*)?", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(?::([0-9]{1,5}))?")
_NAME = re.compile(
    r"(?!.{254})(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
)
# A host whose last label looks like this is an IPv4 address (WHATWG URL, "ends in a number").
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
# Such as 10.0.0.x or 10.0.0.1-9: no top-level domain begins with a digit or has one character.
_LIKE_AN_ADDRESS = re.compile(r"([0-9]+\.){2,3}([0-9][^.]*|[^.])")
_PREFIX_LENGTH = re.compile(r"0|[1-9][0-9]{0,2}", re.ASCII)
_MAPPED, _EVERY_IPV6 = IPv6Network("::ffff:0:0/96"), IPv6Network("::/0")
# Only an entry for the address of such a service opens it.
_METADATA_NAMES = frozenset(
    {"metadata.google.internal", "metadata.goog", "instance-data.ec2.internal"}
)
_PATTERN = re.compile(r"[a-z0-9_.*?-]+")
# The reserved characters of RFC 3986, and % because parts may be percent-encoded already.
_PATH_SAFE = "/:?#[]@!$&'()*+,;=%~"


@dataclass(frozen=True, slots=True)
class Target:
    """A URL in parts, as ``read_url`` returns it.

    ``host`` is lower-case ASCII without brackets; ``path`` is ready for a request line.
    """

    scheme: str
    host: str
    port: int
    path: str  # with the query, which may be a secret: never in a log or an error text

    @property
    def authority(self) -> str:
        """The value of the Host header: IPv6 in brackets, without the scheme's default port."""
        host = _bracketed(self.host)
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def is_literal(self) -> bool:
        """Whether the host is an IP address, so that no name has to be resolved."""
        return _literal(self.host) is not None

    @property
    def url(self) -> str:
        """The whole URL, without a fragment."""
        return f"{self.scheme}://{self.authority}{self.path}"


@dataclass(frozen=True, slots=True)
class Exemption:
    """One entry of FETCH_ALLOW: a host name or a network, and the ports that it opens."""

    place: str | IPv4Network | IPv6Network
    ports: frozenset[int]

    def covers(self, host: str, ip: IPv4Address | IPv6Address | None) -> bool:
        """Return whether this entry names the host, or a network that contains the address."""
        return (
            self.place == host
            if isinstance(self.place, str)
            else ip is not None and ip in self.place
        )


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """What may be fetched: public addresses on ports 80 and 443, and the operator's exemptions.

    An entry of ``allow`` (FETCH_ALLOW) opens exactly what it names. With a port
    (``127.0.0.1:8788``, ``[fd00::1]:9000``, ``minio:9000``) it opens only that port; without one
    (``10.1.2.3``, ``198.18.0.0/15``, ``intranet``) it opens ports 80 and 443. A host name opens
    all addresses of that host; a network opens every host inside it. The address of a cloud's
    metadata service needs an entry for exactly that address. ``hosts`` (FETCH_HOSTS) are shell
    patterns (``*.example.com``; ``*`` also matches dots). If there are any, only matching hosts
    are allowed.
    """

    allow: tuple[Exemption, ...] = ()
    hosts: tuple[str, ...] = ()

    @classmethod
    def parse(cls, allow: Iterable[str], hosts: Iterable[str]) -> "AddressPolicy":
        """Return the policy for the entries of FETCH_ALLOW and FETCH_HOSTS.

        Raise ValueError that names a wrong entry and how to correct it.
        """
        return cls(tuple(map(_read_exemption, allow)), tuple(map(_read_pattern, hosts)))

    def check_url(self, url: str) -> Target:
        """Return the parts of a URL.

        Raise AddressRefusedError if it is not a valid http(s) URL, or its host or port is not
        allowed.
        """
        target = read_url(url)
        if self.hosts and not any(fnmatchcase(target.host, pattern) for pattern in self.hosts):
            raise AddressRefusedError(
                f"{target.host} is not one of FETCH_HOSTS; if this is meant, add it there"
            )
        if target.port not in _WEB_PORTS and not self._exempt(
            target.host, _literal(target.host), target.port
        ):
            raise AddressRefusedError(
                f"{target.host} on port {target.port}: only 80 and 443; "
                f"if this is meant, add {target.authority} to FETCH_ALLOW"
            )
        return target

    def check_address(self, ip: str, port: int, host: str) -> None:
        """Raise AddressRefusedError if ``ip``, an address of ``host``, is not allowed on ``port``.

        The text gives the reason and says what to add to FETCH_ALLOW.
        """
        try:
            address = _unmapped(ip_address(ip))
        except ValueError as error:
            raise AddressRefusedError(f"{host} leads to {ip!a}, which is not an address") from error
        reason = refusal_reason(address)
        if reason is None or self._exempt(host, address, port):
            return
        place = _bracketed(str(address)) + ("" if port in _WEB_PORTS else f":{port}")
        where = host if host == str(address) else f"{host} leads to {address}"
        raise AddressRefusedError(
            f"{where}: {reason}; if this is meant, add {place} to FETCH_ALLOW"
        )

    def _exempt(self, host: str, ip: IPv4Address | IPv6Address | None, port: int) -> bool:
        allow = self.allow
        if ip and needs_own_entry(ip):
            allow = tuple(
                entry
                for entry in allow
                if not isinstance(entry.place, str) and entry.place.num_addresses == 1
            )
        return any(port in entry.ports and entry.covers(host, ip) for entry in allow)


def read_url(url: str) -> Target:
    """Return the parts of an http(s) URL, without checking its host.

    Raise AddressRefusedError if two programs could read the URL differently.
    """
    if len(url) > MAX_URL:
        raise AddressRefusedError(f"a URL of {len(url)} characters; {MAX_URL} is the most")
    if _CONTROL.search(url):
        raise AddressRefusedError("a URL with control characters")
    parts = _URL.fullmatch(url.partition("#")[0])
    if parts is None:
        raise AddressRefusedError("not an http or https URL")
    scheme, authority, path, query = parts[1].lower(), parts[2], parts[3], parts[4] or ""
    if "@" in authority:
        raise AddressRefusedError("a URL with credentials in it")
    try:
        host, port = _split_authority(authority)
    except ValueError as error:
        raise AddressRefusedError(f"no valid host in a URL: {error}") from error
    return Target(
        scheme,
        host,
        port or DEFAULT_PORTS[scheme],
        quote((path or "/") + query, safe=_PATH_SAFE, errors="replace"),
    )


def plain_host(text: str) -> str:
    """Return a host name or address in its canonical spelling.

    Raise ValueError if two programs could read it differently.
    """
    if text.startswith("["):
        ip = _literal(text.strip("[]"))
        if not isinstance(ip, IPv6Address):
            raise ValueError(f"{text[:100]!a} is not an IPv6 address")
        return str(_unmapped(ip))
    host = text.lower()
    if not host.isascii():
        host = _idna(host)
    name = host.removesuffix(".")
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        if not text.isascii() or str(_literal(host)) != host:
            raise ValueError(f"{text[:100]!a} is an odd spelling of an address")
        return host
    if not _NAME.fullmatch(name):
        raise ValueError(f"{text[:100]!a} is not a host name")
    return name


def _idna(host: str) -> str:
    """Return an international host name as browsers send it: IDNA 2008, mapped as in UTS 46.

    ``faß.de`` is xn--fa-hia.de; Python's own codec (IDNA 2003) makes it the other name fass.de.
    """
    if any(character.isdigit() and not character.isascii() for character in host):
        raise ValueError(f"{host[:100]!a} has digits that are not 0-9")
    if len(host) > 253:  # noqa: PLR2004 - RFC 1035; a check of bounded work
        raise ValueError("the host name is too long")
    try:
        labels = idna.uts46_remap(host, std3_rules=False, transitional=False).split(".")
        return ".".join(
            label if label.isascii() else idna.alabel(label).decode("ascii") for label in labels
        )
    except idna.IDNAError as error:
        raise ValueError(f"{host[:100]!a} is not a name of IDNA 2008") from error


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _unmapped(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return ``::ffff:10.0.0.1`` as 10.0.0.1, as the kernel does."""
    return (isinstance(ip, IPv6Address) and ip.ipv4_mapped) or ip


def _split_authority(authority: str) -> tuple[str, int | None]:
    """Return host and port of ``host``, ``host:port``, ``[v6]`` or ``[v6]:port``; or ValueError."""
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise ValueError(f"{authority[:100]!a} is not a host")
    port = int(parts[2]) if parts[2] else None
    if port is not None and not 0 < port < 1 << 16:
        raise ValueError(f"{port} is not a port")
    return plain_host(parts[1]), port


def _read_exemption(entry: str) -> Exemption:
    text = entry.strip()
    try:
        if "/" in text:
            return Exemption(_network(text), _WEB_PORTS)
        if text.count(":") > 1 and not text.startswith("["):
            text = f"[{_bare_ipv6(text)}]"
        host, port = _split_authority(text)
    except ValueError as error:
        remedy = (
            "write a host, host:port, an address, [v6 address]:port or a network such as "
            "198.18.0.0/15, without scheme or path"
        )
        raise ValueError(f"FETCH_ALLOW: {entry!a} is not understood ({error}); {remedy}") from error
    ip = _literal(host)
    exemption = Exemption(
        host if ip is None else ip_network(ip), _WEB_PORTS if port is None else frozenset({port})
    )
    if why := _has_no_effect(exemption):
        raise ValueError(f"FETCH_ALLOW: {entry!a} has no effect: {why}; remove it or correct it")
    return exemption


def _network(text: str) -> IPv4Network | IPv6Network:
    """Return the network; raise ValueError if it could be read in two ways or never matches."""
    if not _PREFIX_LENGTH.fullmatch(text.rpartition("/")[2]):
        # ipaddress also takes masks, and reads 0.0.0.255 as the mask 255.255.255.0.
        raise ValueError("the number after the / must be the length of the prefix, such as 8")
    if "%" in text:
        raise ValueError("an address with a zone is not compared")
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.overlaps(_MAPPED) and network != _EVERY_IPV6:
        # These are checked as IPv4 addresses, because the kernel treats them as such.
        raise ValueError("IPv4 in ::ffff:0:0/96 is compared as IPv4: write that network")
    if is_public(network):
        raise ValueError("these addresses are public, and so allowed without an entry")
    return network


def _bare_ipv6(text: str) -> str:
    """Return an IPv6 address without brackets; raise ValueError if its end could be a port."""
    address, _, end = text.rpartition(":")
    if end.isdigit() and isinstance(_literal(address), IPv6Address):
        raise ValueError(f"write [{text}], or [{address}]:{end} if {end} is a port")
    return text


def _has_no_effect(exemption: Exemption) -> str:
    """Return why nothing is ever allowed by this entry alone, or an empty text."""
    place = exemption.place
    if isinstance(place, str):
        if place in _METADATA_NAMES:
            return "a name never opens a cloud's metadata service"
        if _LIKE_AN_ADDRESS.fullmatch(place):
            return "it is a host name that looks like an address"
    elif exemption.ports <= _WEB_PORTS and refusal_reason(place.network_address) is None:
        return "a public address is allowed on ports 80 and 443 without an entry"
    return ""


def _read_pattern(entry: str) -> str:
    pattern = entry.strip().lower().removesuffix(".")
    if not _PATTERN.fullmatch(pattern) or "" in pattern.split("."):
        raise ValueError(
            f"FETCH_HOSTS: {entry!a} is not a host pattern; "
            "write a host name, with * for anything: *.example.com"
        )
    return pattern
