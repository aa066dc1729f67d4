"""What our configuration changes in gunicorn."""

import importlib
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from gunicorn.config import Config  # type: ignore[import-untyped]  # the package has no types
from gunicorn.http.parser import RequestParser  # type: ignore[import-untyped]  # as above

from receiver import gunicorn_conf
from receiver.server.arrivals import Arrival


def test_a_connection_that_falls_silent_gives_its_thread_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gunicorn_conf, "READ_TIMEOUT", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        gunicorn_conf.when_ready(SimpleNamespace(LISTENERS=[SimpleNamespace(sock=listener)]))
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            with accepted, pytest.raises(BlockingIOError):
                accepted.recv(1)


def test_gunicorn_opens_no_control_socket_which_a_locked_down_service_could_not_create() -> None:
    config = Config()
    assert not config.control_socket_disable, "or the setting is not needed any more"
    config.set("control_socket_disable", gunicorn_conf.control_socket_disable)
    assert config.control_socket_disable


def test_the_longest_search_in_chinese_is_a_url_that_gunicorn_takes() -> None:
    config = Config()
    config.set("limit_request_line", gunicorn_conf.limit_request_line)
    words, name = quote("\u72d0" * 500), quote("\u72d0" * 200)
    head = f"GET /jobs?q={words}&batch={name}&zone=Asia%2FShanghai HTTP/1.1\r\nHost: x\r\n\r\n"
    taken = next(RequestParser(config, iter([head.encode()]), ("127.0.0.1", 1)))
    assert taken.path == "/jobs"
    arrival = Arrival("127.0.0.1", 0)
    arrival.add(head[:5_000].encode(), 0)
    assert not arrival.is_too_much


@pytest.fixture
def read_again() -> Iterator[None]:
    yield
    importlib.reload(gunicorn_conf)


def asked(peer: str) -> Any:
    """Return a request that claims to come through a proxy, as gunicorn reads it."""
    config = Config()
    config.set("forwarded_allow_ips", gunicorn_conf.forwarded_allow_ips)
    head = (
        b"GET /callback HTTP/1.1\r\nHost: x\r\nX-Forwarded-Proto: https\r\n"
        b"X-Forwarded-For: 8.8.8.8\r\nX-Forwarded-Host: evil\r\n\r\n"
    )
    return next(RequestParser(config, iter([head]), (peer, 1)))


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "10.0.0.2", "203.0.113.9"])
def test_no_peer_is_trusted_as_a_proxy_not_even_on_loopback(peer: str) -> None:
    assert asked(peer).scheme == "http"


@pytest.mark.usefixtures("read_again")
def test_only_the_proxy_that_the_operator_names_is_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.0.0.0/24")
    importlib.reload(gunicorn_conf)
    assert (asked("10.0.0.2").scheme, asked("10.0.1.2").scheme, asked("127.0.0.1").scheme) == (
        "https",
        "http",
        "http",
    )
