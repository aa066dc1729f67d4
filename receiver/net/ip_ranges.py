"""IP ranges that are not public, each with its reason.

Source: the IANA special-purpose address registries (RFC 6890 and the RFCs named here), and the
cloud vendors' documentation for the addresses of their metadata services. Python's ``is_private``
and ``is_global`` are not enough: they miss 100.64/10, multicast and IPv4 addresses embedded in
IPv6 ones, and they differ between Python versions.
"""

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

# A client that can read these gets the machine's cloud credentials.
_METADATA_ADDRESSES = frozenset(
    {
        IPv4Address("169.254.169.254"),  # AWS, Google, Azure, Oracle, DigitalOcean, Hetzner …
        IPv4Address("169.254.170.2"),  # AWS ECS tasks
        IPv4Address("169.254.170.23"),  # AWS EKS pods
        IPv4Address("169.254.0.23"),  # Tencent
        IPv4Address("100.100.100.200"),  # Alibaba
        IPv4Address("168.63.129.16"),  # Azure's host agent, on a public address
        IPv4Address("192.0.0.192"),  # Oracle Classic
        IPv6Address("fd00:ec2::254"),  # AWS
        IPv6Address("fd00:ec2::23"),  # AWS EKS pods
        IPv6Address("fd20:ce::254"),  # Google
    }
)

_REFUSED_4 = tuple(
    (IPv4Network(network), reason)
    for network, reason in (
        ("0.0.0.0/8", "this network (RFC 791)"),
        ("10.0.0.0/8", "a private network (RFC 1918)"),
        ("100.64.0.0/10", "a carrier's internal network (RFC 6598)"),
        ("127.0.0.0/8", "loopback (RFC 1122)"),
        ("169.254.0.0/16", "link-local (RFC 3927)"),
        ("172.16.0.0/12", "a private network (RFC 1918)"),
        ("192.0.0.0/24", "IETF protocol assignments (RFC 6890)"),
        ("192.0.2.0/24", "documentation (RFC 5737)"),
        ("192.88.99.0/24", "6to4 relays, withdrawn (RFC 7526)"),
        ("192.168.0.0/16", "a private network (RFC 1918)"),
        (
            "198.18.0.0/15",
            "benchmarking (RFC 2544); fake-IP proxies use it, for them allow 198.18.0.0/15",
        ),
        ("198.51.100.0/24", "documentation (RFC 5737)"),
        ("203.0.113.0/24", "documentation (RFC 5737)"),
        ("224.0.0.0/4", "multicast (RFC 5771)"),
        ("255.255.255.255/32", "broadcast (RFC 919)"),
        ("240.0.0.0/4", "reserved (RFC 1112)"),
    )
)

_REFUSED_6 = tuple(
    (IPv6Network(network), reason)
    for network, reason in (
        ("::/128", "unspecified (RFC 4291)"),
        ("::1/128", "loopback (RFC 4291)"),
        ("::/96", "IPv4-compatible, withdrawn (RFC 4291)"),
        (
            "64:ff9b::/96",
            "IPv4 behind a translator (NAT64, RFC 6052); with DNS64 allow 64:ff9b::/96",
        ),
        ("64:ff9b:1::/48", "a network's own IPv4 translator (RFC 8215)"),
        ("100::/64", "discard (RFC 6666)"),
        ("2001::/32", "IPv4 in a tunnel (Teredo, RFC 4380)"),
        ("2001:2::/48", "benchmarking (RFC 5180)"),
        ("2001:10::/28", "ORCHID, withdrawn (RFC 4843)"),
        ("2001:20::/28", "ORCHIDv2 (RFC 7343)"),
        ("2001:30::/28", "drone identifiers (RFC 9374)"),
        ("2001:db8::/32", "documentation (RFC 3849)"),
        ("2002::/16", "IPv4 in a tunnel (6to4, withdrawn by RFC 7526)"),
        ("3fff::/20", "documentation (RFC 9637)"),
        ("5f00::/16", "segment routing (RFC 9602)"),
        ("fc00::/7", "unique local (RFC 4193)"),
        ("fe80::/10", "link-local (RFC 4291)"),
        ("fec0::/10", "site-local, withdrawn (RFC 3879)"),
        ("ff00::/8", "multicast (RFC 4291)"),
    )
)
_PUBLIC_6 = IPv6Network("2000::/3")  # the only range assigned as public so far (RFC 4291, 2.4)
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
_OWN_NAT64 = IPv6Network("64:ff9b:1::/48")  # RFC 8215; its prefix has 48, 56, 64 or 96 bits
_TRANSLATED = IPv6Network("::ffff:0:0:0/96")  # RFC 2765
_THIS_NETWORK = IPv4Network("0.0.0.0/8")
_ISATAP = 0x5EFE  # RFC 5214, 6.1: ::[02]00:5efe:<IPv4>


@lru_cache(maxsize=4096)
def refusal_reason(ip: IPv4Address | IPv6Address) -> str | None:
    """Return why an address is not public, or None if it is public.

    An IPv6 address with an IPv4 address in it is never public, as in smokescreen: a tunnel or
    translator that we do not know decides which machine it leads to. If the IPv4 address is not
    public itself, the reason says so.
    """
    if ip in _METADATA_ADDRESSES:
        return "a cloud's metadata service"
    if isinstance(ip, IPv4Address):
        return next((reason for network, reason in _REFUSED_4 if ip in network), None)
    for embedded in embedded_ipv4(ip):
        reason = refusal_reason(embedded)
        if reason is not None:
            return f"it contains {embedded}, {reason}"
    reason = next((reason for network, reason in _REFUSED_6 if ip in network), None)
    if reason is None and embedded_ipv4(ip):
        return "IPv4 in a tunnel (ISATAP, RFC 5214)"
    if reason is None and ip not in _PUBLIC_6:
        reason = "not assigned as public (RFC 4291)"
    return reason


def is_public(network: IPv4Network | IPv6Network) -> bool:
    """Return whether a network has public addresses only, metadata services aside."""
    if isinstance(network, IPv4Network):
        return not any(network.overlaps(refused) for refused, _ in _REFUSED_4)
    return network.subnet_of(_PUBLIC_6) and not any(
        network.overlaps(refused) for refused, _ in _REFUSED_6
    )


def needs_own_entry(ip: IPv4Address | IPv6Address) -> bool:
    """Return whether only an entry for exactly this address may open it.

    A metadata service gives out this machine's cloud credentials; an IPv4 address that is not
    public, inside an IPv6 address, is rarely meant by an entry for a whole network.
    """
    embedded = embedded_ipv4(ip) if isinstance(ip, IPv6Address) else ()
    return ip in _METADATA_ADDRESSES or any(map(refusal_reason, embedded))


def embedded_ipv4(ip: IPv6Address) -> tuple[IPv4Address, ...]:
    """Return the IPv4 addresses that an IPv6 address would lead to.

    These are mapped, compatible, translated, 6to4, Teredo (server and client), NAT64 and ISATAP
    addresses. In addresses of a network's own translator it may be at one of four places.
    """
    low = IPv4Address(int(ip) & 0xFFFF_FFFF)
    is_compatible = int(ip) >> 32 == 0 and int(ip) > 1
    if is_compatible or ip.ipv4_mapped or ip in _NAT64 or ip in _TRANSLATED:
        return (low,)
    if ip in _OWN_NAT64:
        possible = (low, *(_after(ip, bits) for bits in (48, 56, 64)))
        return tuple(one for one in possible if one not in _THIS_NETWORK)
    if ip.sixtofour:
        return (ip.sixtofour,)
    if ip.teredo:
        return ip.teredo
    if int(ip) >> 32 & 0xFDFF_FFFF == _ISATAP:
        return (low,)
    return ()


def _after(ip: IPv6Address, bits: int) -> IPv4Address:
    """Return the IPv4 address after a prefix of this many bits; it leaves out bits 64 to 71."""
    without_them = (int(ip) >> 64 << 56) | int(ip) & (1 << 56) - 1
    return IPv4Address(without_them >> (88 - bits) & 0xFFFF_FFFF)
