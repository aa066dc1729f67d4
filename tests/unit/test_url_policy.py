"""Which URLs are read: plain ones, on the ports of the web; no ambiguous one."""

import re

import pytest

from receiver.errors import AddressRefusedError
from receiver.net.policy import MAX_URL, AddressPolicy, Target

NOTHING_EXEMPT = AddressPolicy()


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
        ("https://faß.de/x", Target("https", "xn--fa-hia.de", 443, "/x")),  # IDNA 2008
        ("https://Faß。de/x", Target("https", "xn--fa-hia.de", 443, "/x")),
        ("https://bücher.example/x", Target("https", "xn--bcher-kva.example", 443, "/x")),
        ("https://1e100.example/x", Target("https", "1e100.example", 443, "/x")),
        ("https://my_bucket.s3.example/x", Target("https", "my_bucket.s3.example", 443, "/x")),
        (
            "https://pictures.example/图 1.png?s=a%2Fb\\",
            Target("https", "pictures.example", 443, "/%E5%9B%BE%201.png?s=a%2Fb%5C"),
        ),
    ],
)
def test_a_plain_url_is_parsed(url: str, target: Target) -> None:
    assert NOTHING_EXEMPT.check_url(url) == target


@pytest.mark.parametrize(
    ("url", "again"),
    [
        ("https://pictures.example:80/x?y#z", "https://pictures.example:80/x?y"),
        ("http://[2400:cb00::1]:80", "http://[2400:cb00::1]/"),
        ("http://[2400:cb00::1]:443/a", "http://[2400:cb00::1]:443/a"),
    ],
)
def test_a_target_is_written_as_a_url(url: str, again: str) -> None:
    assert NOTHING_EXEMPT.check_url(url).url == again


NO_URL, NO_HOST, NO_NAME, ODD = (
    "not an http or https URL",
    "no valid host",
    "is not a host name",
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
    ("https:///x", "is not a host"),
    ("https://", "is not a host"),
    ("https://:443/x", "is not a host"),
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
    ("https://pictures.example:0/x", "is not a port"),
    ("https://pictures.example:65536/x", "is not a port"),
    ("https://pictures.example:999999/x", "is not a host"),
    ("https://pictures.example:/x", "is not a host"),
    ("https://pictures.example:443:443/x", "is not a host"),
    ("https://pictures.example:٤٤٣/x", "is not a host"),
    ("https://pictures.example:+443/x", "is not a host"),
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
    ("http://[::1/", "is not a host"),
    ("http://::1/", "is not a host"),
    ("http://[::1]80/", "is not a host"),
    ("http://[fe80::1%25eth0]/", "is not a host"),
    ("http://[fe80::1%eth0]/", "is not a host"),
    ("http://[v1.fe80]/", "is not a host"),
    ("http://[8.8.8.8]/", "not an IPv6 address"),
    ("http://[]/", "is not a host"),
    ("http://[pictures.example]/", "is not a host"),
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
