"""The socket of the service: made, waited for, or handed over."""

import os
import socket
import tempfile
import time
from collections.abc import Iterator

import pytest

from receiver.errors import ConfigurationError
from receiver.server.listening import listen, url_of, with_mapped


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        yield holder


def test_an_address_that_is_taken_is_reported(
    taken: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []
    monkeypatch.setattr(time, "sleep", naps.append)
    moments = iter([0.0, 1.0, 2.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(moments))
    with pytest.raises(
        ConfigurationError,
        match=r"cannot listen on 127\.0\.0\.1:\d+ \(Address already in use\); choose another",
    ):
        listen("127.0.0.1", taken.getsockname()[1])
    assert len(naps) == 1


def test_an_address_of_another_machine_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _seconds: pytest.fail("waiting does not help"))
    with pytest.raises(ConfigurationError, match="Cannot assign requested address"):
        listen("192.0.2.1", 0)


def test_an_address_that_becomes_free_is_taken(
    taken: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _seconds: taken.close())
    port = taken.getsockname()[1]
    with listen("127.0.0.1", port) as ours:
        assert ours.getsockname() == ("127.0.0.1", port)


@pytest.mark.parametrize(
    "environ",
    [{"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_PID": str(os.getpid())}, {"LISTEN_FDS": "1"}],
)
def test_a_socket_that_was_handed_to_another_process_is_not_ours(environ: dict[str, str]) -> None:
    with listen("127.0.0.1", 0, environ=environ) as ours:
        assert ours.getsockname()[1]


def test_both_families_are_listened_to() -> None:
    with listen("::1", 0) as ours:
        assert ours.family is socket.AF_INET6
        assert url_of(ours) == f"http://[::1]:{ours.getsockname()[1]}"


def test_the_url_has_the_port_that_the_system_chose() -> None:
    with listen("127.0.0.1", 0) as ours:
        assert url_of(ours) == f"http://127.0.0.1:{ours.getsockname()[1]}"


def test_the_url_of_a_unix_socket_is_its_path() -> None:
    # Not in TMPDIR: a unix socket's path has at most 107 bytes.
    folder = tempfile.TemporaryDirectory(dir="/tmp")
    with folder as name, socket.socket(socket.AF_UNIX) as handed_over:
        handed_over.bind(f"{name}/s")
        assert url_of(handed_over) == f"unix:{name}/s"


@pytest.mark.parametrize("host", ["", "::"])
def test_all_interfaces_answer_both_families(host: str) -> None:
    with listen(host, 0) as ours:
        port = ours.getsockname()[1]
        assert url_of(ours) == f"http://127.0.0.1:{port} (on all interfaces)"
        for address in ("127.0.0.1", "::1"):
            socket.create_connection((address, port)).close()


def test_without_ipv6_all_interfaces_are_those_of_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with listen("", 0) as ours:
        assert ours.getsockname()[0] == "0.0.0.0"
        assert url_of(ours).endswith("(on all interfaces)")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", ""),
        ("10.0.0.1, fd00::1", "10.0.0.1,fd00::1,::ffff:10.0.0.1/128"),
        ("172.16.0.0/12", "172.16.0.0/12,::ffff:172.16.0.0/108"),
        ("*", "*"),
    ],
)
def test_a_proxy_is_known_by_its_address_on_an_ipv6_socket_too(given: str, expected: str) -> None:
    assert with_mapped(given) == expected


def test_a_host_name_without_an_address_is_reported() -> None:
    with pytest.raises(ConfigurationError, match=r"nosuch\.invalid:0 \(the name has no address"):
        listen("nosuch.invalid", 0)
