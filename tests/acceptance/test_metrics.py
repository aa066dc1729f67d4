"""The metrics of a running service: web and worker add up, at one address, across crashes."""

import os
import re
import signal

import requests
from installation import Installation
from processes import Running, free_port, running
from waiting import until


def metrics(url: str) -> dict[str, float]:
    """Return every sample of a scrape by its name and labels."""
    lines = requests.get(f"{url}/metrics", timeout=10).text.splitlines()
    return {
        found[1]: float(found[2])
        for line in lines
        if (found := re.fullmatch(r"(\w+(?:\{[^}]*\})?) (\S+)", line))
    }


def metrics_once(url: str, sample: str, value: float) -> dict[str, float]:
    """Wait until a sample has this value; return them all."""
    until(lambda: metrics(url).get(sample) == value, what=f"{sample} {value}")
    return metrics(url)


def test_one_scrape_shows_what_web_and_worker_counted_and_a_killed_worker_is_not_forgotten(
    installation: Installation,
) -> None:
    with installation.started(EVENT_URLS="log:") as service:
        job = installation.submit()
        (archived,) = installation.wait(job.ref)
        sent = 'receiver_event_attempts_total{destination="log:",outcome="sent"}'
        found = metrics_once(installation.url, sent, 2)
        size = archived.assets[0].size
        assert (
            found['receiver_callbacks_total{outcome="ended"}']
            == found['receiver_callback_seconds_count{outcome="ended"}']
            == 1
        )
        assert found['receiver_deliveries_total{source="callback",verdict="ended"}'] == 1
        assert (
            found['receiver_assets_total{outcome="archived"}']
            == found["receiver_time_left_seconds_count"]
            == 1
        )
        assert found["receiver_archived_bytes_total"] == size
        for step in ("fetch", "inspect", "put"):
            assert found[f'receiver_archive_step_seconds_count{{step="{step}"}}'] == 1
        assert (
            found['receiver_jobs{state="archived"}'] + found['receiver_jobs{state="waiting"}'] <= 1
        )
        for silent in (
            'receiver_callbacks_total{outcome="forged"}',
            'receiver_lost_total{what="job"}',
            "receiver_claims_taken_over_total",
        ):
            assert found[silent] == 0
        kill_worker(service)
        second = installation.submit()
        installation.wait(second.ref)
        found = metrics_once(installation.url, sent, 4)
        assert found['receiver_assets_total{outcome="archived"}'] == 2


def kill_worker(service: Running) -> None:
    """Kill the worker process of a service."""
    (pid,) = [pid for pid, line in service.members().items() if line.endswith("receiver worker")]
    os.kill(pid, signal.SIGKILL)


def test_a_worker_on_a_machine_of_its_own_shows_health_and_metrics_at_a_port(
    installation: Installation,
) -> None:
    port = free_port()
    with running(
        ("receiver", "worker", "--metrics-port", str(port)),
        installation.environ,
        installation.folder,
    ) as worker:
        worker.says("health checks and metrics on")
        found = metrics(f"http://127.0.0.1:{port}")
        assert found['receiver_assets_total{outcome="archived"}'] == 0
        for path in ("/healthz", "/readyz"):
            answer = requests.get(f"http://127.0.0.1:{port}{path}", timeout=10)
            assert (answer.status_code, answer.json()["ok"]) == (200, True), answer.text
        # The port is there before the first heartbeat.
        until(
            lambda: requests.get(f"http://127.0.0.1:{port}/status", timeout=10).json()["ok"],
            what="that all is well",
        )
        assert requests.get(f"http://127.0.0.1:{port}/api/jobs", timeout=10).status_code == 404
        done = installation.run("receiver", "worker", "--metrics-port", str(port))
        assert done.status == 2
        assert "--metrics-port: cannot listen" in done.err
