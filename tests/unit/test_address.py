"""Which IP addresses may be contacted: public ones only, in any spelling."""

import re

import pytest

from receiver.errors import AddressRefusedError
from receiver.net.policy import AddressPolicy

NOTHING_EXEMPT = AddressPolicy()
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.1",
    "169.253.255.255",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.1",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2001:200::1",
    "2400:cb00::1",
    "2606:4700:4700::1111",
    "2a00:1450:4001:82a::200e",
    "::ffff:8.8.8.8",  # to the kernel this is 8.8.8.8
]
NOT_PUBLIC = [
    ("0.0.0.0", "this network"),
    ("0.255.255.255", "this network"),
    ("10.0.0.1", "private"),
    ("10.255.255.255", "private"),
    ("100.64.0.0", "carrier"),
    ("100.127.255.255", "carrier"),
    ("100.100.100.200", "metadata"),
    ("127.0.0.1", "loopback"),
    ("127.255.255.254", "loopback"),
    ("168.63.129.16", "metadata"),
    ("169.254.0.1", "link-local"),
    ("169.254.169.254", "metadata"),
    ("169.254.170.2", "metadata"),
    ("172.16.0.1", "private"),
    ("172.31.255.255", "private"),
    ("192.0.0.1", "IETF"),
    ("192.0.0.192", "metadata"),
    ("192.0.2.1", "documentation"),
    ("192.88.99.1", "6to4"),
    ("192.168.0.1", "private"),
    ("198.18.0.1", "benchmarking"),
    ("198.19.255.255", "benchmarking"),
    ("198.51.100.1", "documentation"),
    ("203.0.113.1", "documentation"),
    ("224.0.0.1", "multicast"),
    ("239.255.255.255", "multicast"),
    ("240.0.0.1", "reserved"),
    ("255.255.255.255", "broadcast"),
    ("::", "unspecified"),
    ("::1", "loopback"),
    ("::7f00:1", "contains 127.0.0.1"),
    ("::8.8.8.8", "IPv4-compatible"),
    ("::ffff:127.0.0.1", "loopback"),
    ("::ffff:a9fe:a9fe", "metadata"),
    ("::ffff:0:127.0.0.1", "contains 127.0.0.1"),  # IPv4-translated (RFC 2765)
    ("64:ff9b::808:808", "NAT64"),  # with a public address it leads into the unknown, too
    ("2002:808:808::1", "6to4"),
    ("2001:0:808:808:0:0:f6f6:f6f6", "Teredo"),
    ("2400:cb00::5efe:8.8.8.8", "ISATAP"),
    ("2400:cb00::200:5efe:8.8.8.8", "ISATAP"),
    ("64:ff9b::a9fe:a9fe", "contains 169.254.169.254"),
    ("64:ff9b::10.0.0.1", "contains 10.0.0.1"),
    ("64:ff9b:1::8.8.8.8", "own IPv4 translator"),
    ("64:ff9b:1:a9fe:a9:fe00::", "contains 169.254.169.254"),
    ("100::1", "discard"),
    ("2001:0:7f00:1::", "contains 127.0.0.1"),  # Teredo: the server …
    ("2001:0:808:808:0:0:f5ff:fffe", "contains 10.0.0.1"),  # … and the client, inverted
    ("2001:2::1", "benchmarking"),
    ("2001:10::1", "ORCHID"),
    ("2001:20::1", "ORCHIDv2"),
    ("2001:30::1", "drone"),
    ("2001:db8::1", "documentation"),
    ("2002:a9fe:a9fe::1", "contains 169.254.169.254"),
    ("2002:7f00:1::", "contains 127.0.0.1"),
    ("2400:cb00::5efe:10.0.0.1", "contains 10.0.0.1"),  # ISATAP, in a private …
    ("2400:cb00::200:5efe:10.0.0.1", "contains 10.0.0.1"),  # … and in a unique spelling
    ("3fff::1", "documentation"),
    ("5f00::1", "segment routing"),
    ("1000::1", "not assigned"),
    ("4000::1", "not assigned"),
    ("fc00::1", "unique local"),
    ("fd00:ec2::254", "metadata"),
    ("fd12:3456::1", "unique local"),
    ("fe80::1", "link-local"),
    ("fe80::1%eth0", "link-local"),
    ("fec0::1", "site-local"),
    ("ff02::1", "multicast"),
]


@pytest.mark.parametrize("ip", PUBLIC)
def test_a_public_address_passes(ip: str) -> None:
    NOTHING_EXEMPT.check_address(ip, 443, "pictures.example")


@pytest.mark.parametrize(("ip", "reason"), NOT_PUBLIC)
def test_an_address_that_is_not_public_is_refused_with_its_reason(ip: str, reason: str) -> None:
    with pytest.raises(AddressRefusedError, match=re.escape(reason)) as refused:
        NOTHING_EXEMPT.check_address(ip, 443, "pictures.example")
    assert refused.value.permanent
    assert "pictures.example leads to" in str(refused.value)


@pytest.mark.parametrize(("ip", "_reason"), NOT_PUBLIC)
def test_the_remedy_in_a_refusal_works(ip: str, _reason: str) -> None:
    for port in (80, 9000):
        with pytest.raises(AddressRefusedError) as refused:
            NOTHING_EXEMPT.check_address(ip, port, "pictures.example")
        remedy = re.search(r"add (\S+) to FETCH_ALLOW", str(refused.value))
        assert remedy is not None
        if "%" not in ip:  # an address with a zone cannot be exempted
            AddressPolicy.parse([remedy[1]], ()).check_address(ip, port, "pictures.example")


def test_something_that_is_no_address_is_refused() -> None:
    with pytest.raises(AddressRefusedError, match="not an address"):
        NOTHING_EXEMPT.check_address("0x7f.1", 443, "pictures.example")
