"""A picture that kills the worker each time is set aside, and the other pictures are archived."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from socket import socket

import pytest
import requests
from archiving import PNG, scripted_source
from installation import Installation
from ledgers import succeeded
from outside_network import answer
from waiting import until

from receiver.failpoints import Point
from receiver.ledger.claims import LEASE, MOST_CRASHES, SUSPICIOUS_CRASHES
from receiver.ledger.rows import Asset
from receiver.model import AssetState, JobState, Reason, new_ref
from receiver.services import Services
from submitter.sandbox import Sandbox


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(looks=2) as running:
        yield running


def the_asset(services: Services, ref: str) -> Asset:
    """Return a job's one asset."""
    (asset,) = services.queries.assets([ref])[ref]
    return asset


def expedite(installation: Installation, ref: str, *, crashes: int) -> None:
    """End the pause after a crash, and set the crashes to at least ``crashes``.

    An asset that a worker holds is not changed.
    """
    paused = (crashes, time.time(), ref, AssetState.PENDING, time.time() + 0.75 * LEASE)
    with closing(
        sqlite3.connect(installation.data / "ledger.sqlite3", isolation_level=None)
    ) as connection:
        statement = """
            UPDATE assets SET crashes = max(crashes, ?), due_at = ?
            WHERE ref = ? AND state = ? AND due_at < ?
        """
        connection.execute(statement, paused).close()


def is_over(installation: Installation, services: Services, ref: str) -> bool:
    """Say whether the asset is final; if not, have its next attempt be the last but one."""
    expedite(installation, ref, crashes=MOST_CRASHES - 2)
    services.engine.notify()
    return the_asset(services, ref).finished_at is not None


def test_what_keeps_killing_the_worker_is_set_aside_and_archived_by_a_retry(
    installation: Installation,
) -> None:
    faults = installation.folder / "faults"
    faults.mkdir()
    poisonous = [ref := new_ref(time.time())]

    def serve(connection: socket) -> None:
        if poisonous:
            (
                faults / Point.FETCHED
            ).touch()  # the next worker that has a file is killed while it has this one
        answer(body=PNG)(connection)

    with scripted_source(serve) as server:
        installation.environ["FETCH_ALLOW"] += f",127.0.0.1:{server.port}"
        with (
            installation.started(RECEIVER_FAULTS=str(faults)) as service,
            installation.services() as services,
        ):
            neighbours = [installation.submit(f"fox {number}").ref for number in range(4)]
            hook = f"{installation.url}/callback/{services.tickets.sign(ref)}"
            report = succeeded(f"http://127.0.0.1:{server.port}/poison.png", provider_id="poison")
            assert requests.post(hook, data=report, timeout=10).status_code == 200
            service.says("process died, starting it again", times=SUSPICIOUS_CRASHES)
            # The rest would take minutes: set the crashes to one less than the limit.
            until(lambda: is_over(installation, services, ref), what="that it is set aside")
            asset = the_asset(services, ref)
            assert (asset.state, asset.crashes) == (AssetState.FAILED, MOST_CRASHES)
            assert asset.error.startswith("set aside: ")
            (job, *others) = installation.wait(
                ref, *neighbours, installation.submit("a fox that came later").ref
            )
            assert (job.state, job.reason) == (JobState.FAILED, Reason.BAD_ASSET)
            assert all(map(installation.is_safe, others))
            assert (
                SUSPICIOUS_CRASHES
                < service.output().count("process died, starting it again")
                <= MOST_CRASHES
            )
            assert services.totals.audit().ok
            poisonous.clear()
            assert installation.invoke("receiver", "retry", ref).status == 0
            (job,) = installation.wait(ref)
            assert job.state is JobState.ARCHIVED
            assert the_asset(services, ref).crashes == 0
            assert list(faults.iterdir()) == []
