"""A full disk under a running ``receiver serve``.

Nothing is acknowledged that is not stored, and the work continues when there is space.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import requests
from installation import Installation
from processes import Running
from small_disks import SmallDisk, small_disk
from waiting import until

from receiver.model import new_ref


@pytest.fixture
def disk(installation: Installation) -> Iterator[SmallDisk]:
    """Put DATA_DIR with ledger, scratch folder and archive on its own small disk."""
    with small_disk(installation.data, kilobytes=16_000) as disk:
        yield disk


def test_on_a_full_disk_callbacks_are_answered_503_and_all_goes_on_when_there_is_room(
    installation: Installation, disk: SmallDisk
) -> None:
    installation.environ |= {"POLL_AFTER": "1", "POLL_INTERVAL": "1"}
    with installation.started() as service, installation.services() as services:
        (before,) = installation.wait(installation.submit().ref)
        assert installation.is_safe(before)
        lost = installation.submit(callback="lost")
        web = web_processes(service)
        taken: list[str] = []
        send = partial(post, installation, services.tickets.sign, taken)
        with disk.full():
            (refused,) = until(
                lambda: [answer for answer in [send()] if not answer.ok], what="a refusal"
            )
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
            assert refused.json() == {"ok": False, "error": "this callback cannot be stored now"}
            until(
                lambda: installation.status("/readyz") == requests.codes.unavailable,
                what="that it says so itself",
            )
            assert (
                requests.get(f"{installation.url}/readyz", timeout=10).json()["ledger"]
                == "the ledger cannot be used now; the log says why"
            )
            assert installation.status("/healthz") == requests.codes.ok
            assert (
                requests.get(f"{installation.url}/metrics", timeout=10).status_code
                == requests.codes.ok
            )
            for _ in range(20):
                assert send().status_code in {200, 503}
        assert send().status_code == 200
        assert web_processes(service) == web, "no process died"
        assert {job.ref for job in services.queries.jobs_named(taken)} == set(taken), (
            "what was answered 200 is there"
        )
        found, new = installation.wait(lost.ref, installation.submit().ref)
        assert installation.is_safe(found)
        assert installation.is_safe(new)
        until(
            lambda: installation.status("/readyz") == requests.codes.ok,
            what="that it is ready again",
        )
        assert services.totals.audit().ok
        assert "Traceback" not in service.output()


def test_a_web_process_that_never_counted_before_does_not_die_of_a_full_disk(
    installation: Installation, disk: SmallDisk
) -> None:
    with installation.started() as service, installation.services() as services:
        send = partial(post, installation, services.tickets.sign, [])
        web = web_processes(service)
        with disk.full():
            assert [send().status_code for _ in range(5)][-1] == 503
            assert web_processes(service) == web
            os.kill(max(web - {min(web)}), signal.SIGKILL)
            until(
                lambda: len(web_processes(service) - web) == 1,
                what="another web process, started on the full disk",
            )
            assert {send().status_code for _ in range(5)} == {503}
        assert send().status_code == 200
        assert service.stop() == 0


def web_processes(service: Running) -> set[int]:
    """Return the pids of the web side: the one that watches, and its workers."""
    return {pid for pid, line in service.members().items() if "gunicorn" in line}


def post(
    installation: Installation, sign: Callable[[str], str], taken: list[str]
) -> requests.Response:
    """Send a callback of an unknown job; add its ref to ``taken`` if the answer is 200."""
    ref = new_ref(time.time())
    body = {"id": f"task-{ref}", "status": "failed", "failure_reason": "error", "error": "x" * 2000}
    answer = requests.post(f"{installation.url}/callback/{sign(ref)}", json=body, timeout=5)
    if answer.ok:
        taken.append(ref)
    return answer
