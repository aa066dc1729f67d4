"""Where a provider's key is sent: to its own hosts by TLS, and to the address of the settings."""

from dataclasses import replace
from http.server import BaseHTTPRequestHandler

import pytest
import structlog
from http_server import HttpServer
from signing import body_of

from receiver.errors import ProviderUnavailableError
from receiver.model import Api, Provider
from receiver.providers.client import Clients, ProviderClient
from receiver.providers.dialect import Account, Head, ProviderAnswer, Request, Task
from receiver.providers.registry import DIALECTS

KEY = "a-key-of-our-account"
BFL = Account(KEY, "https://api.bfl.ai")


@pytest.mark.parametrize(
    "url",
    [
        "https://api.bfl.ai/v1/get_result?id=1",
        "https://api.eu1.bfl.ai/v1/get_result?id=1",
        "https://API.US.BFL.AI:443/x",
        "https://bfl.ai/x",
    ],
)
def test_a_provider_s_own_hosts_may_have_its_key(url: str) -> None:
    assert BFL.may_have_key(url, DIALECTS[Provider.BFL].hosts)


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/v1/get_result?id=1",
        "http://api.eu1.bfl.ai/x",
        "https://api.bfl.ai:8443/x",
        "https://api.bfl.ai.evil.example/x",
        "https://evilbfl.ai/x",
        "https://evil.example\\.bfl.ai/x",
        "https://evil.example#.bfl.ai/x",
        "https://evil.example?.bfl.ai",
        "https://api.bfl.ai@evil.example/x",
        "https://evil.example\x00.bfl.ai/x",
        "https://evil.example%2f.bfl.ai/x",
        "https://ebfl。ai/x",
        "https://[::1]/x",
        "https://[::1/x",
        "https://api.bfl.ai:port/x",
        "https:///x",
        "",
    ],
)
def test_no_other_host_may_have_it(url: str) -> None:
    assert not BFL.may_have_key(url, DIALECTS[Provider.BFL].hosts)


def test_the_address_of_the_settings_may_have_it_and_no_other_port_or_scheme_of_its_host() -> None:
    sandbox = Account(KEY, "http://127.0.0.1:8788/bfl")
    assert sandbox.may_have_key("http://127.0.0.1:8788/file/1.png")
    for other in ("http://127.0.0.1:8789/", "https://127.0.0.1:8788/", "http://localhost:8788/"):
        assert not sandbox.may_have_key(other)
    assert not sandbox.may_have_key("http://api.bfl.ai/", ("bfl.ai",))


# Polls.


class Pending(HttpServer):
    """A provider that answers every request with a success."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def handle_get(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(request.path)
        body = body_of(Provider.BFL)
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)


class Elsewhere:
    """Records what is sent to other hosts than that of the settings."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def __call__(self, request: Request) -> ProviderAnswer:
        self.asked.append(request)
        return ProviderAnswer(Head(200), body_of(Provider.BFL))


def poll(provider: Provider, base_url: str, poll_url: str) -> list[Request]:
    """Ask for a task with this address for polls; return what went to other hosts."""
    elsewhere = Elsewhere()
    client = ProviderClient(DIALECTS[provider], Account(KEY, base_url), elsewhere=elsewhere)
    task = Task(provider, "t1", base_url, Api.QUEUE, "fal-ai/flux/dev", poll_url)
    assert client.result(task)
    return elsewhere.asked


def test_a_regional_host_of_the_provider_is_asked_with_the_key() -> None:
    url = "https://api.eu1.bfl.ai/v1/get_result?id=t1"
    assert poll(Provider.BFL, "https://api.bfl.ai", url) == [Request(url, {"x-key": KEY})]


@pytest.mark.parametrize("provider", [Provider.BFL, Provider.FAL, Provider.REPLICATE])
def test_another_host_that_the_answer_names_is_told_nothing_and_the_own_one_is_asked(
    provider: Provider,
) -> None:
    for url in ("https://evil.example/x?id=t1", "http://api.eu1.bfl.ai/v1/get_result?id=t1"):
        with Pending() as server, structlog.testing.capture_logs() as logs:
            assert poll(provider, f"http://{server.address}", url) == []
            assert len(server.asked) == 1
        assert [log["event"] for log in logs] == [
            "address for polls not used, our key is not sent there"
        ]
        assert KEY not in str(logs)


def test_a_host_that_an_answer_to_a_poll_names_is_not_asked_either() -> None:
    client = ProviderClient(DIALECTS[Provider.BFL], BFL, elsewhere=Elsewhere())
    with pytest.raises(ProviderUnavailableError, match="not one of the provider's hosts"):
        client._ask_elsewhere(Request("https://evil.example/x", {"x-key": KEY}), BFL.base_url)


# Downloads.


@pytest.mark.parametrize(
    ("url", "provider", "headers"),
    [
        ("https://api.replicate.com/v1/files/abc/download", "replicate", 1),
        ("https://replicate.delivery/pbxt/abc/out.png", "replicate", 0),
        ("https://api.replicate.com.evil.example/v1/files/abc", "replicate", 0),
        ("http://api.replicate.com/v1/files/abc", "replicate", 0),
        # A result of another provider must not make us fetch our own files there.
        ("https://api.replicate.com/v1/files/abc", "grsai", 0),
        ("https://delivery-eu1.bfl.ai/results/1.png", "bfl", 0),
        ("https://v3.fal.media/files/1.png", "fal", 0),
    ],
)
def test_a_download_has_the_key_only_at_the_api_of_its_own_provider(
    url: str, provider: str, headers: int
) -> None:
    clients = Clients(
        {
            name: ProviderClient(DIALECTS[name], replace(BFL, base_url=f"https://{name}.example"))
            for name in DIALECTS
        }
    )
    assert len(clients.download_headers(url, lambda: provider)) == headers
