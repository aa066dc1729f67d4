"""An archive or a ledger that hangs, and probers that hammer: neither delays a callback."""

from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing

import requests
from installation import Installation
from relay import relay
from waiting import until
from web_client import RUNNING

from receiver.model import new_ref
from receiver.services import Services
from receiver.settings import Settings

PROBES = 40
# Connections of the checks of the archive, however many probes there are: a check that times out is
# repeated, and may try twice.
FEW = 4
PATHS = ("/healthz", "/readyz", "/status", "/metrics")


def test_an_archive_that_hangs_delays_no_callback_however_many_probers_ask(
    installation: Installation,
) -> None:
    with relay() as silent:
        installation.environ |= {
            "ARCHIVE_URL": "s3://pictures/here",
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{silent.port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "planted-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        with (
            installation.started(("gunicorn", "-c", "python:receiver.gunicorn_conf", APP)),
            closing(Services(Settings.load(installation.environ))) as services,
            ThreadPoolExecutor(PROBES) as pool,
        ):
            until(lambda: probe(installation.url, "/status") and silent.accepted, what="a question")
            probes = [pool.submit(probe, installation.url, path) for path in PATHS * (PROBES // 4)]
            for _ in range(10):
                ticket = services.tickets.sign(new_ref(services.now()))
                answer = requests.post(
                    f"{installation.url}/callback/{ticket}", json=RUNNING, timeout=20
                )
                assert answer.status_code == 200
            assert silent.accepted <= FEW, "one question at a time, and none is answered"
            statuses = answered(probes)
            assert (statuses["/healthz"], statuses["/readyz"], statuses["/metrics"]) == (
                {200},
                {200},
                {200},
            )
            assert statuses["/status"] == {503}
            found = requests.get(f"{installation.url}/status", timeout=5).json()["checks"]
            assert (found["ledger"]["ok"], found["archive"]["ok"]) == (True, False)
            assert silent.accepted <= FEW


APP = "receiver.web:create_app()"


def probe(url: str, path: str) -> tuple[str, int]:
    return path, requests.get(f"{url}{path}", timeout=20).status_code


def answered(probes: list["Future[tuple[str, int]]"]) -> dict[str, set[int]]:
    """Return the statuses that each path answered."""
    assert not wait(probes, timeout=60).not_done
    found: dict[str, set[int]] = {path: set() for path in PATHS}
    for done in probes:
        path, status = done.result()
        found[path].add(status)
    return found
