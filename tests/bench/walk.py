"""Measure: every page and every GET of the API, on ledgers of a million jobs (or of any number).

Each request is made ``TIMES`` times in one process, through the WSGI application without a server.
The first one is not counted, so the figures are those of a warm service. ``processor`` is the
processor time of the thread that answers: it says what a page costs on a machine that is busy with
other work, where ``best`` to ``worst`` say how long the machine took. What threads in the
background compute (counts, costs, charts, audit) is measured apart.
"""

import base64
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlencode

from flask import Flask
from flask.testing import FlaskClient
from postgres import PostgresServer, postgres, postgres_binaries
from rich.table import Table

from receiver.ledger.queries.over_time import TimeQueries
from receiver.ledger.queries.spending import SpendingQueries
from receiver.services import Services
from receiver.settings import Settings
from receiver.web import create_app
from receiver.web.dashboard.over_time import SPANS
from receiver.web.spending import DAYS
from receiver.web.state import attach
from tests.bench.big_ledger import DESTINATION, RARE, Shape, make
from tests.bench.measurements import MS
from tests.bench.processes import cpu_seconds, postmaster

TIMES = 7
_TOKEN = "0" * 32
# Seconds that values computed in the background may take until pages have them.
_LONGEST_WAIT = 120.0


@dataclass(frozen=True, slots=True)
class Span:
    """How long something took each time, in milliseconds: by the clock, and of the processor.

    ``server`` is the mean processor time of PostgreSQL's processes.
    """

    name: str
    clock: list[float]
    processor: list[float]
    server: float
    size: int = 0

    def cells(self) -> list[str]:
        """Return what the table shows of it."""
        clock = (min(self.clock), median(self.clock), max(self.clock))
        values = (median(self.processor), self.server, *clock)
        return [self.name, *(f"{value:.1f}" for value in values), f"{self.size / 1000:.0f}"]


def paths(shape: Shape) -> list[str]:
    """Return what is asked for: every page with each of its filters, and the API's lists."""
    jobs, middle = shape.jobs, shape.ref(shape.jobs // 2 + 1)
    batch, key = f"batch-{jobs // 2 // 1500}", f"order-{jobs // 20 * 10 + 1:08d}"
    number = jobs // 2 + 1  # every second job before it has two deliveries
    delivery = number + number // 2 + 1
    day = f"{datetime.fromtimestamp(shape.moment(jobs // 2), UTC):%Y-%m-%d}"
    filters: list[dict[str, str]] = [
        {},
        *({"state": state} for state in ("archived", "failed", "expired", "archiving", "waiting")),
        {"model": "nano-banana"},
        {"model": "sora-image", "state": "failed"},
        {"reason": "output_moderation"},
        {"reason": "bad_asset"},
        {"batch": batch},
        {"batch": batch, "state": "failed"},
        {"metadata": "campaign=campaign-321"},
        {"metadata": "campaign"},
        {"metadata": "campaign=none"},
        {"since": day, "until": day},
        {"since": day, "until": day, "model": "sora-image", "zone": "Asia/Shanghai"},
        *({"q": words} for words in (middle, f"task-{jobs // 3:08d}", key, middle[:14], batch)),
        *({"q": words} for words in ("lighthouse", "light violin", RARE, "xylophone", "ow", "9")),
        {"q": "lighthouse", "model": "sora-image", "state": "failed"},
        {"q": "violin", "since": day, "until": day},
    ]
    gallery = [one for one in filters if "state" not in one and "reason" not in one]
    return [
        *(_url("/", **one) for one in gallery),
        *(_url("/", after=middle, **one) for one in ({}, {"q": "fox"})),
        *(_url("/jobs", **one) for one in filters),
        *(_url("/jobs", after=middle, **one) for one in ({}, {"state": "failed"}, {"q": "fox"})),
        *(f"/jobs/{middle}", f"/pictures/{middle}/0", f"/jobs/{middle}/deliveries/{delivery}"),
        *("/batches", _url("/batches", batch=batch), _url("/batches", batch="batch-0")),
        *("/events", "/costs", *(f"/charts?span={span}" for span in SPANS)),
        *(f"/compare?span=last_{span}" for span in ("hour", "day", "week", "month")),
        *("/service", "/first-steps", "/status-bar", "/audit", "/at-risk", "/set-aside"),
        *("/submit", "/docs/api", _url("/retry-all", state="failed"), "/replay-all"),
        *(_url("/retry-all", state="failed", **one) for one in ({"batch": batch}, {"q": "fox"})),
        *(_url("/api/jobs", **one) for one in filters if "zone" not in one and "since" not in one),
        *("/api/jobs?limit=500", f"/api/jobs?after={middle}", f"/api/jobs?key={key}"),
        _url(
            "/api/jobs",
            refs=",".join(shape.ref(number) for number in range(jobs // 2 - 200, jobs // 2)),
        ),
        *(f"/api/jobs/{middle}", f"/api/jobs/{middle}/deliveries"),
        *("/api/events?after=0", f"/api/events?after={jobs}", "/api/destinations", "/api/audit"),
        *("/api/credits", "/openapi.json", "/healthz", "/readyz", "/status", "/metrics"),
    ]


def _url(path: str, **values: str) -> str:
    return f"{path}?{urlencode(values)}" if values else path


def server() -> AbstractContextManager[PostgresServer]:
    """Run a PostgreSQL with its own default of memory instead of that of the tests."""
    return postgres("shared_buffers=128MB")


def measure(folder: Path, sizes: Sequence[int]) -> list[Table]:
    """Make ledgers of these sizes on every database this machine has, and measure them."""
    tables = []
    for shape in map(Shape.until_now, sizes):
        sqlite, postgresql = (folder / f"{shape.jobs}-{name}" for name in ("sqlite", "postgresql"))
        make(url := f"sqlite:///{sqlite / 'ledger.sqlite3'}", shape)
        tables += measure_ledger(url, shape, sqlite)
        if postgres_binaries() is None:
            sys.stderr.write("PostgreSQL is not installed: the ledger on it is left out\n")
            continue
        with server() as running:
            make(url := running.make_database(), shape)
            tables += measure_ledger(url, shape, postgresql)
    return tables


def measure_ledger(url: str, shape: Shape, folder: Path) -> list[Table]:
    """Measure a ledger; the service's other files are in this folder."""
    given = {
        "ADMIN_TOKEN": _TOKEN,
        "EVENT_SECRET": f"whsec_{base64.b64encode(bytes(24)).decode()}",
        "GRSAI_BASE_URL": "http://127.0.0.1:1",
        "LOG_LEVEL": "ERROR",
        "EVENT_URLS": DESTINATION,
        "CALLBACK_SECRETS": _TOKEN,
        "DATA_DIR": str(folder),
        "ARCHIVE_URL": f"file://{folder / 'archive'}",
        "DATABASE_URL": url.replace("+psycopg", ""),
    }
    with closing(Services(Settings.load(given)).open()) as services:
        app = create_app()
        attach(app, services)
        what = f"{shape.jobs:,} jobs on {'SQLite' if 'sqlite' in url else 'PostgreSQL'}"
        number = None if services.settings.embedded else postmaster(services)
        background = _table(f"In the background, {what}", computed(services, number))
        pages = _table(f"Pages and API, {what}", walk(app, paths(shape), number))
    return [background, pages]


def computed(services: Services, server: int | None) -> Iterator[Span]:
    """Yield how long what threads in the background compute takes; first sum up the jobs."""
    database, now = services.database, services.now
    measure = partial(_timed, server)
    yield measure("jobs summed up for the first time", services.job_totals.update, 1)
    yield measure("jobs summed up again", services.job_totals.update)
    yield measure("counts by state", services.totals.counts)
    yield measure("usage by model", services.totals.usage)
    yield measure("recent audit", lambda: services.totals.recent_audit(now()))
    yield measure(f"costs of {DAYS} days", lambda: SpendingQueries(database).days(now(), DAYS))
    for name, (width, count) in SPANS.items():
        yield measure(f"charts, {name}", partial(_charts, services, width, count))
    yield measure("the whole audit", services.totals.audit, 1)


def _charts(services: Services, width: float, count: int) -> object:
    return TimeQueries(services.database).parts(services.now(), width, count)


def _timed(server: int | None, name: str, ask: Callable[[], object], times: int = TIMES) -> Span:
    clock, processor, before = [], [], _used(server)
    for _ in range(times):
        began, used = time.perf_counter(), time.thread_time()
        ask()
        clock.append(MS * (time.perf_counter() - began))
        processor.append(MS * (time.thread_time() - used))
    return Span(name, clock, processor, MS * (_used(server) - before) / times)


def _used(server: int | None) -> float:
    return 0.0 if server is None else cpu_seconds(server)


def walk(app: Flask, asked: list[str], server: int | None) -> Iterator[Span]:
    """Yield how long each of these paths takes."""
    client = app.test_client()
    client.post("/login", data={"token": _TOKEN})
    for path in asked:
        size = _warm(client, path)
        span = _timed(server, _short(path), partial(_get, client, path))
        yield replace(span, size=size)


def _warm(client: FlaskClient, path: str) -> int:
    """Ask until the answer is the final one; return its size."""
    deadline = time.monotonic() + _LONGEST_WAIT
    while True:
        answer = _get(client, path)
        is_final = answer.status_code < 300 and b'class="busy on"' not in answer.data
        if is_final or path == "/status":
            return len(answer.data)
        is_refused = answer.status_code >= 300 and answer.status_code != 503
        if is_refused or time.monotonic() > deadline:
            raise RuntimeError(f"{path} answers {answer.status_code}")
        time.sleep(0.2)


def _get(client: FlaskClient, path: str) -> Any:
    is_page = not path.startswith(
        ("/api", "/openapi", "/healthz", "/readyz", "/status", "/metrics")
    )
    return client.get(path, headers={} if is_page else {"Authorization": f"Bearer {_TOKEN}"})


def _short(path: str) -> str:
    return path if len(path) < 90 else f"{path[:60]}…"


def _table(title: str, spans: Iterator[Span]) -> Table:
    table = Table(title=title)
    table.add_column("ms", overflow="fold")
    for heading in ("processor", "server", "best", "median", "worst", "kB"):
        table.add_column(heading, justify="right")
    for span in spans:
        table.add_row(*span.cells())
    return table
