"""The limits of a download: allowed addresses, TLS, and time. The sockets are real."""

import hashlib
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from outside_network import (
    OK,
    OUTSIDE,
    PICTURE,
    TLS,
    WEB,
    FastClock,
    OutsideNetwork,
    Script,
    answer,
    certificate,
    drip,
    redirect,
    silence,
)

from receiver.errors import AddressRefusedError, FetchError
from receiver.net.policy import AddressPolicy
from receiver.net.progress import Progress


@pytest.fixture
def network(tmp_path: Path) -> Iterator[OutsideNetwork]:
    with OutsideNetwork(tmp_path / "picture") as network:
        yield network


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def tls(pem: Path) -> ssl.SSLContext:
    """Give the server's side of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


@pytest.fixture
def trusting(pem: Path) -> ssl.SSLContext:
    """Give our side of TLS, which trusts the server's certificate."""
    return ssl.create_default_context(cafile=str(pem))


# Redirects, names and addresses


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(network: OutsideNetwork, status: int) -> None:
    network.names["cdn.example"] = ["1.1.1.1"]
    network.serve(redirect("/there?a", status), redirect("//cdn.example/%E5%9B%BE", status), at=WEB)
    cdn = network.serve(redirect("/\u56fe.png", status), answer(), at=("1.1.1.1", 80))
    assert network.fetch().url == "http://cdn.example/%E5%9B%BE.png"
    assert network.connected == [WEB, WEB, ("1.1.1.1", 80), ("1.1.1.1", 80)]
    assert b"Host: cdn.example\r\n" in cdn.requests[0]


def test_headers_for_a_host_are_never_sent_to_another_one(network: OutsideNetwork) -> None:
    network.names["cdn.example"] = ["1.1.1.1"]
    back = redirect("http://pictures.example/last")
    own = network.serve(redirect("/there"), redirect("//cdn.example/x"), answer(), at=WEB)
    cdn = network.serve(back, at=("1.1.1.1", 80))
    network.fetch(headers={"Authorization": "Bearer a-key"})
    sent = [b"a-key" in one for one in (*own.requests, *cdn.requests)]
    assert sent == [True, True, False, False]


def test_a_sixth_redirect_is_one_too_many(network: OutsideNetwork) -> None:
    network.serve(*[redirect("/again")] * 5, answer(), at=WEB)
    assert network.fetch().size == len(PICTURE)
    network.serve(*[redirect("/again")] * 6, answer(), at=("1.1.1.1", 80))
    with pytest.raises(FetchError, match="more than 5 redirects"):
        network.fetch("http://1.1.1.1/")


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1/",
        "http://localhost/",
        "http://inside.example/",
        "http://[::ffff:127.0.0.1]/",
        "http://2130706433/",
        "http://name:pass@127.0.0.1/",
        "http://127.0.0.1:6379/",
        "gopher://127.0.0.1/",
        "file:///etc/passwd",
        "http://[::1",
        "http://pictures.example\\@127.0.0.1/",
    ],
)
def test_a_redirect_to_an_inside_address_is_refused(network: OutsideNetwork, location: str) -> None:
    network.names.update({"localhost": ["127.0.0.1"], "inside.example": ["10.0.0.1"]})
    canary = network.serve(answer(body=b"secret"), at=("127.0.0.1", 80))
    network.servers.update(
        {("10.0.0.1", 80): canary, ("::1", 80): canary, ("127.0.0.1", 6379): canary}
    )
    network.serve(redirect(location), at=WEB)
    with pytest.raises(AddressRefusedError):
        network.fetch()
    assert canary.connections == 0
    assert network.connected == [WEB]
    assert not network.picture.exists()


def test_a_name_that_changes_its_answer_gains_nothing(network: OutsideNetwork) -> None:
    canary = network.serve(answer(body=b"secret"), at=("127.0.0.1", 80))
    network.serve(answer(), at=WEB)
    answers = iter([[OUTSIDE], ["127.0.0.1"], ["127.0.0.1"]])
    assert network.fetch(resolve=lambda _host, _port: next(answers)).size == len(PICTURE)
    assert len(list(answers)) == 2  # asked once
    assert canary.connections == 0


def test_a_name_that_changes_its_answer_between_hops_is_refused(network: OutsideNetwork) -> None:
    canary = network.serve(answer(body=b"secret"), at=("127.0.0.1", 80))
    network.serve(redirect("/again"), at=WEB)
    answers = iter([[OUTSIDE], ["127.0.0.1"]])
    with pytest.raises(AddressRefusedError, match="loopback"):
        network.fetch(resolve=lambda _host, _port: next(answers))
    assert canary.connections == 0


def test_one_inside_address_among_others_refuses_the_name(network: OutsideNetwork) -> None:
    network.names["pictures.example"] = [OUTSIDE, "10.0.0.1"]
    with pytest.raises(
        AddressRefusedError, match=r"pictures\.example leads to 10\.0\.0\.1: a private network"
    ):
        network.fetch()
    assert network.connected == []


def test_the_next_address_is_tried_if_one_does_not_answer(network: OutsideNetwork) -> None:
    network.names["pictures.example"] = ["2400:cb00::1", OUTSIDE]
    network.serve(answer(), at=WEB)
    assert network.fetch().size == len(PICTURE)
    assert network.connected == [("2400:cb00::1", 80), WEB]


def test_a_host_beside_the_patterns_is_not_even_looked_up(network: OutsideNetwork) -> None:
    network.serve(redirect("http://elsewhere.example/"), at=WEB)
    with pytest.raises(AddressRefusedError, match="FETCH_HOSTS"):
        network.fetch(policy=AddressPolicy.parse((), ["pictures.*"]))
    assert network.resolved == ["pictures.example"]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://nowhere.example/", "nowhere.example: Name or service not known"),
        ("http://1.1.1.1/", "1.1.1.1: Connection refused"),
    ],
)
def test_no_way_there_is_a_transient_error(network: OutsideNetwork, url: str, said: str) -> None:
    with pytest.raises(FetchError, match=said) as failed:
        network.fetch(url)
    assert not failed.value.permanent


def test_a_name_without_addresses_is_a_transient_error(network: OutsideNetwork) -> None:
    network.names["pictures.example"] = []
    with pytest.raises(FetchError, match="no address"):
        network.fetch()


# Time


@pytest.mark.parametrize(
    "script",
    [
        drip(OK + b"Content-Length: 999999\r\n\r\n", 0.02),
        drip(OK + b"\r\n", 0.02),
        drip(OK + b"X: ", 0.02),
        drip(b"HTTP/1.1 200 ", 0.02),
        drip(OK + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n", 0.02),
    ],
)
def test_a_drip_does_not_outlast_the_wall_clock(network: OutsideNetwork, script: Script) -> None:
    network.serve(script, at=WEB)
    begun = time.monotonic()
    with pytest.raises(FetchError, match=r"pictures.example: not finished within 0\.3 s"):
        network.fetch(timeout=0.3)
    assert time.monotonic() - begun < 5
    assert not network.picture.exists()


def test_redirects_share_one_wall_clock(network: OutsideNetwork) -> None:
    network.serve(redirect("/again"), at=WEB)
    with pytest.raises(FetchError, match="not finished within 5 s"):
        network.fetch(timeout=5.0, clock=FastClock(0.5))


@pytest.mark.parametrize(
    "head", [b"", b"HTTP/1.1 2", OK + b"X: 1\r\n", OK + b"Content-Length: 9\r\n\r\nbody"]
)
def test_a_silent_source_is_left(network: OutsideNetwork, head: bytes) -> None:
    network.serve(silence(head), at=WEB)
    with pytest.raises(FetchError, match=r"pictures.example: no data for 0\.2 s"):
        network.fetch(stall=0.2)


def test_a_silent_tls_handshake_is_left(network: OutsideNetwork) -> None:
    network.serve(silence(), at=TLS)
    with pytest.raises(FetchError, match="timed out"):
        network.fetch("https://pictures.example/", stall=0.2)


def test_a_silent_name_server_is_left(network: OutsideNetwork) -> None:
    done = threading.Event()

    def never(_host: str, _port: int) -> list[str]:
        done.wait(10)
        return [OUTSIDE]

    with pytest.raises(FetchError, match="no answer from the name server"):
        network.fetch(resolve=never, timeout=0.2)
    done.set()


@pytest.mark.parametrize(
    "script",
    [silence(), silence(OK + b"Content-Length: 9\r\n\r\nbody"), drip(OK + b"\r\n", 0.01), None],
    ids=["no head", "no data", "a drip", "no name server"],
)
def test_a_download_that_is_to_stop_does_so_soon_wherever_it_waits(
    network: OutsideNetwork, script: Script | None
) -> None:
    done, progress = threading.Event(), Progress()
    options: dict[str, Any] = {}
    if script:
        network.serve(script, at=WEB)
    else:
        options["resolve"] = lambda _host, _port: done.wait(20) and []
    timer = threading.Timer(0.1, progress.stop, ["others waited"])
    timer.start()
    began = time.monotonic()
    with pytest.raises(FetchError, match="interrupted: others waited"):
        network.fetch(timeout=30.0, progress=progress, **options)
    assert time.monotonic() - began < 5
    assert not progress.is_running
    assert progress.hosts == ["pictures.example"]
    done.set()
    timer.join()


def test_a_source_that_would_take_for_ever_is_left(network: OutsideNetwork) -> None:
    network.serve(drip(OK + b"Content-Length: 999999\r\n\r\n", 0.001), at=WEB)
    with pytest.raises(FetchError, match=r"too slow, [0-9]+ bytes in 6[0-9] s"):
        network.fetch(timeout=1000.0, clock=FastClock(1.0))


# TLS


def test_tls_is_spoken_with_the_right_host(
    network: OutsideNetwork, tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    network.serve(answer(), at=TLS, tls=tls)
    assert (
        network.fetch("https://pictures.example/x.png", ssl_context=trusting).sha256
        == hashlib.sha256(PICTURE).hexdigest()
    )


def test_a_certificate_for_another_host_is_refused(
    network: OutsideNetwork, tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    network.names["other.example"] = [OUTSIDE]
    server = network.serve(answer(), at=TLS, tls=tls)
    for url in ("https://other.example/x", f"https://{OUTSIDE}/x"):
        with pytest.raises(FetchError, match=r"TLS failed, .*mismatch"):
            network.fetch(url, ssl_context=trusting)
    assert server.requests == []


def test_an_untrusted_certificate_is_refused(network: OutsideNetwork, tls: ssl.SSLContext) -> None:
    server = network.serve(answer(), at=TLS, tls=tls)
    with pytest.raises(FetchError, match="TLS failed, self-signed certificate"):
        network.fetch("https://pictures.example/x")
    assert server.requests == []


def test_a_server_without_tls_is_a_transient_error(network: OutsideNetwork) -> None:
    network.serve(answer(), at=TLS)
    with pytest.raises(FetchError, match=r"pictures\.example: TLS failed, "):
        network.fetch("https://pictures.example/x")


def test_a_redirect_from_https_to_http_is_refused(
    network: OutsideNetwork, tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    network.serve(redirect("http://pictures.example/x"), at=TLS, tls=tls)
    plain = network.serve(answer(), at=WEB)
    with pytest.raises(AddressRefusedError, match="from https to http"):
        network.fetch("https://pictures.example/x", ssl_context=trusting)
    assert plain.connections == 0
