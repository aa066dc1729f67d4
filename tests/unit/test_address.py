"""Which URLs and addresses may be connected to, and what the operator's exemptions open."""

import re

import pytest

from receiver.errors import AddressRefusedError
from receiver.net.policy import MAX_URL, AddressPolicy, Target

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
    "64:ff9b::808:808",  # NAT64 and 6to4 of 8.8.8.8
    "2002:808:808::1",
    "2001:0:808:808:0:0:f6f6:f6f6",  # Teredo: server and client 8.8.8.8 and 9.9.9.9
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
    ("::ffff:0:127.0.0.1", "not assigned"),  # IPv4-translated (RFC 2765)
    ("64:ff9b::a9fe:a9fe", "contains 169.254.169.254"),
    ("64:ff9b::10.0.0.1", "contains 10.0.0.1"),
    ("64:ff9b:1::8.8.8.8", "own IPv4 translator"),
    ("64:ff9b:1:a9fe:a9:fe00::", "own IPv4 translator"),
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
def test_the_remedy_in_a_refusal_is_a_remedy(ip: str, _reason: str) -> None:
    for port in (80, 9000):
        with pytest.raises(AddressRefusedError) as refused:
            NOTHING_EXEMPT.check_address(ip, port, "pictures.example")
        remedy = re.search(r"add (\S+) to FETCH_ALLOW", str(refused.value))
        assert remedy is not None
        if "%" not in ip:  # an address with a zone cannot be exempted
            AddressPolicy.parse([remedy[1]], ()).check_address(ip, port, "pictures.example")


def test_something_that_is_no_address_is_refused() -> None:
    with pytest.raises(AddressRefusedError, match="no address"):
        NOTHING_EXEMPT.check_address("0x7f.1", 443, "pictures.example")


@pytest.mark.parametrize(
    ("url", "target"),
    [
        (
            "https://file1.aitohumanize.com/file/0a.png",
            Target("https", "file1.aitohumanize.com", 443, "/file/0a.png"),
        ),
        ("HTTP://Pictures.Example", Target("http", "pictures.example", 80, "/")),
        ("http://pictures.example:443/", Target("http", "pictures.example", 443, "/")),
        ("https://pictures.example?a=b#part", Target("https", "pictures.example", 443, "/?a=b")),
        ("https://pictures.example./x", Target("https", "pictures.example", 443, "/x")),
        ("https://8.8.8.8/x", Target("https", "8.8.8.8", 443, "/x")),
        ("https://[2400:CB00:0::1]/x", Target("https", "2400:cb00::1", 443, "/x")),
        ("https://[::ffff:8.8.8.8]/x", Target("https", "8.8.8.8", 443, "/x")),
        ("https://bücher.example/x", Target("https", "xn--bcher-kva.example", 443, "/x")),
        ("https://1e100.example/x", Target("https", "1e100.example", 443, "/x")),
        ("https://my_bucket.s3.example/x", Target("https", "my_bucket.s3.example", 443, "/x")),
        (
            "https://pictures.example/图 1.png?s=a%2Fb\\",
            Target("https", "pictures.example", 443, "/%E5%9B%BE%201.png?s=a%2Fb%5C"),
        ),
    ],
)
def test_a_plain_url_is_taken_apart(url: str, target: Target) -> None:
    assert NOTHING_EXEMPT.check_url(url) == target


@pytest.mark.parametrize(
    ("url", "again"),
    [
        ("https://pictures.example:80/x?y#z", "https://pictures.example:80/x?y"),
        ("http://[2400:cb00::1]:80", "http://[2400:cb00::1]/"),
        ("http://[2400:cb00::1]:443/a", "http://[2400:cb00::1]:443/a"),
    ],
)
def test_a_target_can_be_put_together_again(url: str, again: str) -> None:
    assert NOTHING_EXEMPT.check_url(url).url == again


NO_URL, NO_HOST, NO_NAME, ODD = (
    "not an http or https URL",
    "no valid host",
    "is no host name",
    "odd spelling of an address",
)
ODD_URLS = [
    ("", NO_URL),
    ("pictures.example/x", NO_URL),
    ("//pictures.example/x", NO_URL),
    ("ftp://pictures.example/x", NO_URL),
    ("file:///etc/passwd", NO_URL),
    ("data:image/png;base64,AAAA", NO_URL),
    ("javascript:alert(1)", NO_URL),
    ("delivery:0", NO_URL),
    ("gopher://pictures.example:80/", NO_URL),
    ("https:/pictures.example/x", NO_URL),
    ("https:pictures.example/x", NO_URL),
    ("https:///x", "is no host"),
    ("https://", "is no host"),
    ("https://:443/x", "is no host"),
    (" https://pictures.example/", NO_URL),
    ("https://pictures.example\t/x", "control characters"),
    ("https://pictures.example/x\r\nHost: inside", "control characters"),
    ("https://pictures.example/\x00", "control characters"),
    ("https://pictures.example/\x85", "control characters"),
    ("https://pictures example/x", NO_NAME),
    ("https://pictures.example\\@inside.example/x", "credentials"),
    ("https://pictures.example\\x", NO_NAME),
    ("https://name@pictures.example/x", "credentials"),
    ("https://@pictures.example/x", "credentials"),
    ("https://pictures.example:pass@inside.example/x", "credentials"),
    ("https://pictures%2eexample/x", NO_NAME),
    ("https://pictures..example/x", NO_NAME),
    ("https://.pictures.example/x", NO_NAME),
    ("https://-pictures.example/x", NO_NAME),
    ("https://pictures.example../x", NO_NAME),
    ("https://./x", NO_NAME),
    ("https://" + "a" * 64 + ".example/x", NO_NAME),
    ("https://" + "a." * 130 + "example/x", NO_NAME),
    ("https://" + "ü" * 300 + ".example/x", "too long"),
    ("https://ü" + "a" * 70 + ".example/x", NO_HOST),
    ("https://\ufffe.example/x", NO_HOST),
    ("https://pictures\u00ad.example\u2028/x", NO_HOST),
    ("https://pictures.example:0/x", "is no port"),
    ("https://pictures.example:65536/x", "is no port"),
    ("https://pictures.example:999999/x", "is no host"),
    ("https://pictures.example:/x", "is no host"),
    ("https://pictures.example:443:443/x", "is no host"),
    ("https://pictures.example:٤٤٣/x", "is no host"),
    ("https://pictures.example:+443/x", "is no host"),
    # addresses in spellings that some programs read and others do not
    ("http://2130706433/", ODD),
    ("http://0x7f000001/", ODD),
    ("http://0X7F000001/", ODD),
    ("http://0x7f.0.0.1/", ODD),
    ("http://0177.0.0.1/", ODD),
    ("http://017700000001/", ODD),
    ("http://08.8.8.8/", ODD),
    ("http://127.1/", ODD),
    ("http://127.0.1/", ODD),
    ("http://0/", ODD),
    ("http://8.8.8.8./", ODD),
    ("http://127.0.0.1../", NO_NAME),
    ("http://8.8.8.8.8/", ODD),
    ("http://8.8.8.256/", ODD),
    ("http://8.8.8.0x8/", ODD),
    ("http://pictures.example.0x/", ODD),
    ("http://１２７.0.0.1/", "digits that are not 0-9"),
    ("http://①②⑦.0.0.1/", "digits that are not 0-9"),
    ("http://127。0。0。1/", ODD),
    ("http://٨.٨.٨.٨/", "digits that are not 0-9"),
    ("http://[::1/", "is no host"),
    ("http://::1/", "is no host"),
    ("http://[::1]80/", "is no host"),
    ("http://[fe80::1%25eth0]/", "is no host"),
    ("http://[fe80::1%eth0]/", "is no host"),
    ("http://[v1.fe80]/", "is no host"),
    ("http://[8.8.8.8]/", "no IPv6 address"),
    ("http://[]/", "is no host"),
    ("http://[pictures.example]/", "is no host"),
    ("https://pictures.example/" + "a" * MAX_URL, "8192 is the most"),
]


@pytest.mark.parametrize(("url", "reason"), ODD_URLS)
def test_a_url_that_two_readers_could_read_differently_is_refused_with_its_reason(
    url: str, reason: str
) -> None:
    with pytest.raises(AddressRefusedError, match=re.escape(reason)) as refused:
        NOTHING_EXEMPT.check_url(url)
    assert refused.value.permanent


def test_a_refusal_never_repeats_credentials_or_the_query() -> None:
    for url in (
        "https://name:hunter2@pictures.example/?sig=hunter2",
        "https://pictures.example:81/?sig=hunter2",
        "https://a b/?sig=hunter2",
    ):
        with pytest.raises(AddressRefusedError) as refused:
            NOTHING_EXEMPT.check_url(url)
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("port", [22, 25, 6379, 8080, 8443])
def test_only_the_ports_of_the_web_are_open(port: int) -> None:
    with pytest.raises(AddressRefusedError, match=f"add pictures.example:{port} to FETCH_ALLOW"):
        NOTHING_EXEMPT.check_url(f"https://pictures.example:{port}/x")


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


def test_an_exemption_for_inside_does_not_open_the_same_address_through_a_translator() -> None:
    with pytest.raises(AddressRefusedError):
        AddressPolicy.parse(["10.0.0.0/8"], ()).check_address(
            "64:ff9b::a00:1", 80, "pictures.example"
        )


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
    "entry", ["", "https://*.example.com", "minio:9000", "*.例子", "[a-z].example"]
)
def test_a_malformed_host_pattern_is_named_with_its_remedy(entry: str) -> None:
    with pytest.raises(ValueError, match="FETCH_HOSTS") as mistake:
        AddressPolicy.parse((), [entry])
    assert ascii(entry) in str(mistake.value)
    assert "*.example.com" in str(mistake.value)
