"""Measure 6: what probers cost the callbacks while the part that they ask about hangs.

Callbacks come at a steady rate, first alone, then while forty probers ask `/healthz`, `/readyz`,
`/status` and `/metrics` in turn and

- nothing hangs (ledger: SQLite), which shows what the probes alone cost;
- the bucket accepts connections and answers nothing (ledger: SQLite);
- another transaction holds the table to which `/readyz` writes (ledger: PostgreSQL);
- PostgreSQL answered nothing for ``SILENCE`` seconds, until the callbacks begin.

Every callback must be answered 200, and every probe 200 or 503.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

import psycopg
from postgres import killable_postgres
from relay import relay
from sqlalchemy import make_url

from receiver.ledger import schema
from receiver.services import Services
from receiver.settings import Settings
from tests.bench.flood import PACE, flood, rate, send
from tests.bench.measurements import MS, Amount, Line
from tests.bench.processes import environment, gunicorn

# Probers, and how many probes a second they try in all.
PROBERS, PROBES = 40, 100
SILENCE = 3.0  # seconds
_PATHS = ("/healthz", "/readyz", "/status", "/metrics")

Hanging = Callable[[], AbstractContextManager[object]]


def measure(folder: Path, amount: Amount) -> list[Line]:
    """Run rounds of ``each`` callbacks without and with probers, for each part that hangs.

    Raise RuntimeError if a callback is not acknowledged.
    """
    with relay() as bucket:
        variables = {
            "ARCHIVE_URL": "s3://pictures/here",
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{bucket.port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        lines = _measure(folder / "sqlite", {}, {"nothing hangs": nullcontext}, amount)
        lines += _measure(folder / "s3", variables, {"the bucket hangs": nullcontext}, amount)
    with killable_postgres() as server:
        url = server.make_database()
        schema.migrate(url)
        address = make_url(url)
        with relay(f"{address.query['host']}/.s.PGSQL.5432") as between:
            variables = {
                "DATABASE_URL": f"postgresql://postgres@127.0.0.1:{between.port}/{address.database}",
                "ARCHIVE_URL": (folder / "archive").as_uri(),
                "ADMIN_TOKEN": "0" * 32,
                "CALLBACK_SECRETS": "0" * 32,
            }
            hanging: dict[str, Hanging] = {
                "the ledger's check hangs": lambda: _locked(url.replace("+psycopg", "")),
                "after a PostgreSQL that hung": lambda: _hung(between.silent()),
            }
            return lines + _measure(folder / "postgresql", variables, hanging, amount)


def _measure(
    folder: Path, variables: dict[str, str], hanging: dict[str, Hanging], amount: Amount
) -> list[Line]:
    env = environment(folder, **variables)
    alone: list[float] = []
    p99: dict[str, list[float]] = {name: [] for name in hanging}
    answered: dict[str, list[float]] = {name: [] for name in hanging}
    with (
        patch.dict(os.environ, variables),  # boto3 reads its own
        closing(Services(Settings.load(env)).open()) as services,
        gunicorn("receiver.web:create_app()", env, folder / "receiver.log") as server,
    ):
        send(server.port, services, PACE)  # warms up
        for _ in amount:
            alone.append(send(server.port, services, amount.each))
            for name, hangs in hanging.items():
                with (
                    flood(server.port, _probes(), folder / "probes", PROBERS, PROBES) as seen,
                    hangs(),
                ):
                    p99[name].append(send(server.port, services, amount.each))
                answered[name].append(rate(seen, {"200", "503"}))
    return [line for name in hanging for line in _lines(name, answered[name], p99[name], alone)]


def _lines(name: str, answered: list[float], p99: list[float], alone: list[float]) -> list[Line]:
    return [
        Line(f"probes answered, {name}", "1/s", answered, [PROBES] * len(answered)),
        Line(
            "… p99 of callbacks meanwhile",
            "ms",
            [MS * one for one in p99],
            [MS * one for one in alone],
        ),
    ]


def _probes() -> list[bytes]:
    """Return one probe of each path; all are of one length."""
    longest = max(map(len, _PATHS))
    start = "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Filler: {filler}\r\n\r\n"
    return [
        start.format(path=path, filler="x" * (longest - len(path) + 1)).encode() for path in _PATHS
    ]


@contextmanager
def _locked(url: str) -> Iterator[None]:
    """Hold the lock of the table to which /readyz writes."""
    with psycopg.connect(url) as connection:
        connection.execute("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE")
        yield


@contextmanager
def _hung(silent: AbstractContextManager[None]) -> Iterator[None]:
    with silent:
        time.sleep(SILENCE)
    yield
