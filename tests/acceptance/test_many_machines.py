"""Several worker processes on one PostgreSQL share the work, replace a dead one, and drain."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from installation import Installation
from postgres import PostgresServer
from processes import Running, running
from waiting import until

from receiver.ledger import schema
from receiver.ledger.claims import LEASE

WORKERS = 2


@pytest.fixture
def installation(
    installation: Installation, postgres_server: PostgresServer
) -> Iterator[Installation]:
    """Return a new installation whose ledger is on PostgreSQL."""
    url = postgres_server.make_database()
    schema.migrate(url)
    installation.environ |= {
        "DATABASE_URL": url.replace("postgresql+psycopg://", "postgresql://"),
        "CALLBACK_SECRETS": "a-secret-of-sixteen-characters",
        "ARCHIVE_URL": (installation.data / "archive").as_uri(),
        "ADMIN_TOKEN": "a-token-of-the-test",
        "WORKER_THREADS": "2",
    }
    yield installation
    until(lambda: postgres_server.connections(url) == 0, what="every connection closed")
    postgres_server.drop_database(url)


def workers(installation: Installation, stack: ExitStack) -> list[Running]:
    """Start workers that share one DATA_DIR."""
    started = [
        stack.enter_context(
            running(["receiver", "worker"], installation.environ, installation.folder)
        )
        for _ in range(WORKERS)
    ]
    for worker in started:
        worker.says("worker started")
    return started


def test_workers_beside_each_other_do_all_of_the_work_and_drain_at_a_signal(
    installation: Installation,
) -> None:
    with installation.started(), ExitStack() as stack:
        more = workers(installation, stack)
        refs = [installation.submit(f"fox {number}").ref for number in range(12)]
        jobs = installation.wait(*refs)
        assert all(installation.is_safe(job) for job in jobs)
        assert [worker.stop() for worker in more] == [0] * WORKERS
        with installation.services() as services:
            assert services.totals.audit().ok


def test_the_work_of_a_worker_that_is_killed_is_done_by_the_others(
    installation: Installation,
) -> None:
    with installation.started() as service, ExitStack() as stack:
        victim, *others = workers(installation, stack)
        numbers = [path.read_text() for path in installation.data.glob("worker-*.lock")]
        (number,) = [number for number in numbers if number in victim.output()]
        slow = {"mode": "slow", "rate": 30_000, "times": 1}
        refs = [
            installation.submit(f"fox {number}", file=slow, bytes=60_000).ref
            for number in range(10)
        ]
        with installation.services() as services:

            def in_hand() -> bool:
                return any(
                    (asset.claim or "").startswith(f"{number}.")
                    for assets in services.queries.assets(refs).values()
                    for asset in assets
                )

            until(in_hand, what="work in hand")
            victim.kill()
            # Its leases last a minute, but it is missed within seconds.
            until(lambda: not in_hand(), within=LEASE / 2, what="its claims taken over")
        jobs = installation.wait(*refs)
        assert all(installation.is_safe(job) for job in jobs)
        assert "claims of a dead worker taken over" in "".join(
            worker.output() for worker in (service, *others)
        )
