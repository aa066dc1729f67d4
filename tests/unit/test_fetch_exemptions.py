"""FETCH_ALLOW opens no more than it names; FETCH_HOSTS limits the hosts."""

import pytest

from receiver.errors import AddressRefusedError
from receiver.net.policy import AddressPolicy


def test_an_exempt_address_and_port_opens_that_port_alone() -> None:
    policy = AddressPolicy.parse(["127.0.0.1:8788"], ())
    assert policy.check_url("http://127.0.0.1:8788/x").port == 8788
    policy.check_address("127.0.0.1", 8788, "127.0.0.1")
    policy.check_address("::ffff:127.0.0.1", 8788, "127.0.0.1")
    for ip, port in (("127.0.0.1", 80), ("127.0.0.1", 8789), ("127.0.0.2", 8788), ("::1", 8788)):
        with pytest.raises(AddressRefusedError):
            policy.check_address(ip, port, ip)
    for url in ("http://127.0.0.1:8789/", "http://127.0.0.2:8788/", "http://localhost:8788/"):
        with pytest.raises(AddressRefusedError):
            policy.check_url(url)


def test_an_exempt_v6_address_and_port_opens_that_port_alone() -> None:
    policy = AddressPolicy.parse(["[::1]:8788"], ())
    policy.check_address("::1", policy.check_url("http://[::1]:8788/x").port, "::1")
    with pytest.raises(AddressRefusedError):
        policy.check_address("::1", 80, "::1")


@pytest.mark.parametrize(
    "entry",
    ["198.18.0.0/15", " 198.18.0.7 ", "pictures.example", "PICTURES.example.", "198.18.0.7/32"],
)
def test_an_exemption_without_a_port_opens_80_and_443(entry: str) -> None:
    policy = AddressPolicy.parse([entry], ())
    policy.check_address("198.18.0.7", 80, "pictures.example")
    policy.check_address("198.18.0.7", 443, "pictures.example")
    with pytest.raises(AddressRefusedError):
        policy.check_address("198.18.0.7", 8080, "pictures.example")
    with pytest.raises(AddressRefusedError):
        policy.check_url("http://pictures.example:8080/")


@pytest.mark.parametrize("entry", ["::1", "[::1]", "::1/128", "0:0::1"])
def test_an_exempt_v6_address_is_read_in_any_spelling(entry: str) -> None:
    AddressPolicy.parse([entry], ()).check_address("::1", 80, "::1")


def test_an_exempt_name_and_port_opens_whatever_its_address_is() -> None:
    policy = AddressPolicy.parse(["minio:9000"], ())
    assert policy.check_url("http://minio:9000/bucket/x").port == 9000
    policy.check_address("172.17.0.3", 9000, "minio")
    with pytest.raises(AddressRefusedError):
        policy.check_address("172.17.0.3", 80, "minio")
    with pytest.raises(AddressRefusedError):
        policy.check_address("172.17.0.3", 9000, "pictures.example")


@pytest.mark.parametrize("entry", ["0.0.0.0/0", "169.254.0.0/16", "pictures.example"])
def test_a_wide_exemption_does_not_open_a_clouds_metadata(entry: str) -> None:
    with pytest.raises(AddressRefusedError, match="metadata"):
        AddressPolicy.parse([entry], ()).check_address("169.254.169.254", 80, "pictures.example")


def test_a_wide_exemption_does_not_open_metadata_carried_in_another_address() -> None:
    with pytest.raises(AddressRefusedError, match="metadata"):
        AddressPolicy.parse(["::/0"], ()).check_address(
            "64:ff9b::a9fe:a9fe", 80, "pictures.example"
        )


@pytest.mark.parametrize("entry", ["::/0", "64:ff9b:1::/48"])
@pytest.mark.parametrize(
    "inside",
    [
        *("64:ff9b:1::a9fe:a9fe", "64:ff9b:1:a9fe:a9:fe00::", "64:ff9b:1:a9:fe:a9fe::"),
        *("64:ff9b:1::a9:fea9:fe00:0", "64:ff9b:1::a00:1", "::ffff:0:a9fe:a9fe"),
    ],
)
def test_a_network_of_translators_opens_nothing_inside(entry: str, inside: str) -> None:
    with pytest.raises(AddressRefusedError):
        AddressPolicy.parse([entry], ()).check_address(inside, 80, "pictures.example")


def test_an_own_translator_opens_public_addresses() -> None:
    policy = AddressPolicy.parse(["64:ff9b:1::/48"], ())
    for public in ("64:ff9b:1::808:808", "64:ff9b:1:808:8:800::", "64:ff9b:1::8:808:800:0"):
        policy.check_address(public, 443, "pictures.example")


def test_an_exemption_for_inside_does_not_open_the_same_address_through_a_translator() -> None:
    with pytest.raises(AddressRefusedError):
        AddressPolicy.parse(["10.0.0.0/8"], ()).check_address(
            "64:ff9b::a00:1", 80, "pictures.example"
        )


def test_a_translators_network_opens_public_addresses_only() -> None:
    policy = AddressPolicy.parse(["64:ff9b::/96"], ())
    policy.check_address("64:ff9b::808:808", 443, "pictures.example")
    for inside in ("64:ff9b::a00:1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"):
        with pytest.raises(AddressRefusedError, match="contains"):
            policy.check_address(inside, 443, "pictures.example")
    AddressPolicy.parse(["[64:ff9b::a00:1]"], ()).check_address("64:ff9b::a00:1", 80, "inside")


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("8.8.8.8", "public"),
        ("8.8.8.8:443", "public"),
        ("[2606:4700::1111]:80", "public"),
        ("8.8.8.0/24", "public"),
        ("2606:4700::/32", "public"),
        ("::ffff:10.0.0.0/104", "IPv4"),
        ("::ffff:0:0/96", "IPv4"),
        ("::/8", "IPv4"),
        ("fe80::%1/64", "zone"),
        ("10.0.0.0/255.0.0.0", "length of the prefix"),
        ("10.0.0.0/0.0.0.255", "length of the prefix"),
        ("10.0.0.0/08", "length of the prefix"),
        ("10.0.0.0/", "length of the prefix"),
        ("fd00::1:9000", "if 9000 is a port"),
        ("::1:80", "if 80 is a port"),
        ("metadata.google.internal", "metadata"),
        ("METADATA.google.internal.:80", "metadata"),
        ("10.0.0.x", "looks like an address"),
        ("10.0.0.1-9", "looks like an address"),
        ("10.0.0.1-10.0.0.9", "odd spelling"),
    ],
)
def test_an_exemption_that_never_matches_or_can_be_read_in_two_ways_is_refused(
    entry: str, why: str
) -> None:
    with pytest.raises(ValueError, match="FETCH_ALLOW") as mistake:
        AddressPolicy.parse([entry], ())
    assert ascii(entry) in str(mistake.value)
    assert why in str(mistake.value)


@pytest.mark.parametrize(
    "entry",
    [
        "8.8.8.8:8080",
        "8.0.0.0/6",
        "0.0.0.0/0",
        "::/0",
        "2000::/3",
        "fd00::1",
        "fd00:ec2::254",
        "168.63.129.16",
        "[fd00::1]:9000",
        "[fd00::1:9000]",
        "2nd-host",
        "10.20.example.com",
        "Faß.example:8080",
    ],
)
def test_an_exemption_that_can_matter_is_accepted(entry: str) -> None:
    assert AddressPolicy.parse([entry], ()).allow


def test_host_patterns_let_only_their_hosts_pass() -> None:
    policy = AddressPolicy.parse((), ["*.AItoHumanize.com", "cdn?.example"])
    for host in (
        "file1.aitohumanize.com",
        "FILE2.aitohumanize.com.",
        "a.b.aitohumanize.com",
        "cdn1.example",
    ):
        policy.check_url(f"https://{host}/x")
    for host in (
        "aitohumanize.com",
        "aitohumanize.com.evil.example",
        "evilaitohumanize.com",
        "cdn10.example",
        "8.8.8.8",
    ):
        with pytest.raises(AddressRefusedError, match="FETCH_HOSTS"):
            policy.check_url(f"https://{host}/x")


def test_an_exemption_does_not_widen_the_host_patterns() -> None:
    policy = AddressPolicy.parse(["127.0.0.1:8788"], ["*.aitohumanize.com"])
    with pytest.raises(AddressRefusedError, match="FETCH_HOSTS"):
        policy.check_url("http://127.0.0.1:8788/x")


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "http://10.0.0.1",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "10.0.0.0/8:80",
        "10.0.0.256",
        "010.0.0.1",
        "127.1",
        "host:0",
        "host:65536",
        "host:http",
        "host:",
        "*.inside",
        "[::1",
        "[::1]:x",
        "::g",
        "two words",
        "a@b",
    ],
)
def test_a_malformed_exemption_is_named_with_its_remedy(entry: str) -> None:
    with pytest.raises(ValueError, match="FETCH_ALLOW") as mistake:
        AddressPolicy.parse([entry], ())
    assert repr(entry) in str(mistake.value)
    assert "host:port" in str(mistake.value)


@pytest.mark.parametrize(
    "entry",
    ["", "https://*.example.com", "minio:9000", "*.例子", "[a-z].example", ".example.com", "a..b"],
)
def test_a_malformed_host_pattern_is_named_with_its_remedy(entry: str) -> None:
    with pytest.raises(ValueError, match="FETCH_HOSTS") as mistake:
        AddressPolicy.parse((), [entry])
    assert ascii(entry) in str(mistake.value)
    assert "*.example.com" in str(mistake.value)
