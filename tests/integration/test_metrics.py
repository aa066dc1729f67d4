"""Metrics: shared by processes that start and end, and gauges read from the ledger."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from event_server import SECRET
from ledgers import TIMING, LedgerHarness, opened, stored, succeeded
from metric_names import declared
from prometheus_client import Counter
from structlog.testing import capture_logs
from waiting import until
from web_client import WebClient, web_client

from receiver.errors import LedgerError
from receiver.ledger.queries.audit import Audit
from receiver.ledger.queries.backlog import BacklogQueries
from receiver.maintenance import periodic_audit
from receiver.model import AssetState
from receiver.telemetry import metrics
from receiver.worker.engine import WorkQueue, instrumented

ROOT = Path(__file__).parents[2]

# A process that shares its counts in a folder, counts to three on request and shows what all have
# counted. A second argument makes the disk seem full.
COUNTING = """
import os
import sys
from pathlib import Path
import structlog
from receiver.telemetry import metric_files
if len(sys.argv) > 2:
    def full(*_):
        raise OSError(28, "No space left on device")
    os.posix_fallocate = full
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
metric_files.share(Path(sys.argv[1]))
from prometheus_client import Counter, start_http_server
from receiver.telemetry.metrics import shown_as_zero
metric = shown_as_zero(Counter("test_metric", "Of a test.", ["kind"]), ("never",))
for line in sys.stdin:
    if line == "count\\n":
        metric.labels("seen").inc(3)
    server, _ = start_http_server(0, "127.0.0.1", metric_files.registry())
    print(server.server_port, flush=True)
"""


class Process:
    """One process that counts."""

    def __init__(self, folder: Path, *disk: str) -> None:
        command = [sys.executable, "-c", COUNTING, str(folder), *disk]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def says(self, word: str) -> str:
        """Have it do something; return what it shows afterwards."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        return requests.get(
            f"http://127.0.0.1:{int(self._process.stdout.readline())}/metrics", timeout=5
        ).text

    def close(self) -> None:
        """End it in order, so that it removes what it has in memory."""
        self._process.communicate()

    def end(self) -> None:
        """Kill it, as it may happen."""
        self._process.kill()
        self._process.communicate()


def seen(text: str) -> float:
    found = re.search(r'test_metric_total\{kind="seen"\} (\S+)', text)
    return float(found[1]) if found else 0.0


def test_what_a_dead_process_counted_is_kept_while_another_lives_and_forgotten_when_all_restart(
    tmp_path: Path,
) -> None:
    first = Process(tmp_path)
    try:
        shown = first.says("count")
        assert 'test_metric_total{kind="never"} 0.0' in shown
        assert seen(shown) == 3
        second = Process(tmp_path)
        try:
            assert seen(second.says("count")) == 6
            first.end()
            assert seen(second.says("look")) == 6
        finally:
            second.end()
        first = Process(tmp_path)
        assert seen(first.says("look")) == 0
    finally:
        first.end()


def test_a_process_without_disk_space_counts_for_itself_alone(tmp_path: Path) -> None:
    first, second = Process(tmp_path), Process(tmp_path, "full")
    try:
        assert seen(first.says("count")) == 3
        assert seen(second.says("look")) == 0
        assert seen(second.says("count")) == 3
        assert seen(first.says("look")) == 3
    finally:
        first.end()
        second.close()


def test_every_metric_is_named_by_the_conventions() -> None:
    shown = declared(metrics)
    assert len(shown) == len(set(shown))
    assert all(re.fullmatch(r"receiver_[a-z_]+", name) for name in shown)
    timed = {name for name in shown if "second" in name}
    assert all(name.endswith(("_seconds", "_timestamp_seconds")) for name in timed)
    assert not any(name.endswith("_total_total") for name in shown)


# What is counted.


@pytest.fixture
def ledger(sqlite_url: str) -> Iterator[LedgerHarness]:
    with opened(sqlite_url) as ledger:
        yield ledger


class Change:
    """How much a counter has grown since this was made."""

    def __init__(self, metric: Counter, *labels: str) -> None:
        self._metric = metric.labels(*labels) if labels else metric
        self._before = self._metric._value.get()

    @property
    def by(self) -> float:
        """The growth."""
        return float(self._metric._value.get() - self._before)


def test_an_assets_end_its_bytes_and_the_time_that_was_left_are_counted(
    ledger: LedgerHarness,
) -> None:
    archived, retried, failed = (
        Change(metrics.ASSETS, outcome) for outcome in ("archived", "retry", "failed")
    )
    size, lost = Change(metrics.BYTES), Change(metrics.LOST, "asset")
    left = metrics.TIME_LEFT
    before = left._sum.get()
    ledger.archiving(3)
    first, second, third = ledger.assets.claim(3)
    ledger.clock.advance(200)
    ledger.assets.finish(first, stored(first))
    ledger.assets.retry(second, ledger.clock(), "not yet")
    ledger.assets.give_up(third, AssetState.FAILED, "no picture")
    assert (archived.by, retried.by, failed.by, size.by, lost.by) == (1, 1, 1, 1000, 1)
    assert left._sum.get() - before == TIMING.url_lifetime - 200


def test_deliveries_are_counted_by_source_and_verdict_and_lost_jobs_and_risks_once(
    ledger: LedgerHarness,
) -> None:
    ended, duplicate = (
        Change(metrics.DELIVERIES, "callback", verdict) for verdict in ("ended", "duplicate")
    )
    lost, risks = Change(metrics.LOST, "job"), Change(metrics.AT_RISK)
    ref = ledger.archiving()
    ledger.deliver(ref, succeeded("https://files.test/first/0.png"))
    ledger.expired("task-2")
    ledger.jobs.expire(ref, "it has a result by now")
    ledger.clock.advance(7000)
    (claimed,) = ledger.jobs.claim(1)
    ledger.jobs.announce_risk(claimed, "soon")
    ledger.jobs.announce_risk(claimed, "soon")
    assert (ended.by, duplicate.by, lost.by, risks.by) == (1, 1, 1, 1)


def test_a_claim_whose_holder_died_is_counted_when_another_takes_it(ledger: LedgerHarness) -> None:
    taken = Change(metrics.TAKEN_OVER)
    ledger.archiving()
    queue = instrumented(
        WorkQueue("assets", 1, lambda: None, ledger.assets.claim, lambda _claimed: None)
    )
    queue.claim(1)
    assert taken.by == 0
    ledger.claims.take_over()
    queue.claim(1)
    assert taken.by == 1


def test_the_audit_shows_the_difference_and_fails_when_an_invariant_is_broken() -> None:
    periodic_audit.report(Audit(10, 3, 2, 1, 3, {"an invariant": ["REF"]}))
    assert metrics.DIFFERENCE._value.get() == 1
    assert metrics.LAWS_BROKEN._value.get() == 1
    periodic_audit.report(Audit(0, 0, 0, 0, 0, {}))
    assert metrics.DIFFERENCE._value.get() == 0


def test_the_ledger_is_audited_again_after_an_audit_that_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(periodic_audit, "FIRST", 0.001)
    monkeypatch.setattr(periodic_audit, "EVERY", 0.001)
    troubles: list[Exception] = [LedgerError("away"), ZeroDivisionError("a mistake")]
    found = threading.Event()

    def audit(_whole: bool) -> Audit:  # noqa: FBT001 - the callback's only argument
        if troubles:
            raise troubles.pop()
        found.set()
        return Audit(0, 0, 0, 0, 0, {})

    with capture_logs() as logged, periodic_audit.audit_periodically(audit):
        assert found.wait(20)
    assert [line["event"] for line in logged[:2]] == [
        "audit failed unexpectedly",
        "ledger not audited",
    ]


def test_every_job_is_examined_first_and_again_as_long_as_something_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(periodic_audit, "FIRST", 0.001)
    monkeypatch.setattr(periodic_audit, "EVERY", 0.001)
    found = [Audit(1, 0, 0, 0, 0, {}), Audit(0, 0, 0, 0, 0, {})]  # a job is missing, then not
    asked: list[bool] = []

    def audit(whole: bool) -> Audit:  # noqa: FBT001 - as above
        asked.append(whole)
        return found.pop(0) if len(found) > 1 else found[0]

    with periodic_audit.audit_periodically(audit):
        until(lambda: len(asked) >= 4, what="four audits")
    assert asked[:4] == [True, True, False, False]


# What the ledger says.


def test_the_backlog_is_what_is_due_and_not_claimed(ledger: LedgerHarness) -> None:
    backlog = BacklogQueries(ledger.database, TIMING.url_lifetime, ledger.clock)
    ledger.archiving(3)
    ledger.clock.advance(10)
    found = backlog.measure()
    assert (found.due, found.oldest) == (
        {"assets": 3, "jobs": 0, "hints": 0},
        {"assets": 10.0, "jobs": 0.0, "hints": 0.0},
    )
    assert (found.pending, found.at_risk) == (3, 0)
    ledger.assets.claim(2)
    ledger.clock.advance(TIMING.url_lifetime * 3 / 4 - 11)
    assert backlog.measure().at_risk == 0
    ledger.clock.advance(1)
    found = backlog.measure()
    assert (found.pending, found.at_risk) == (3, 3)


@pytest.fixture
def web(sqlite_url: str, tmp_path: Path) -> Iterator[WebClient]:
    environ = {
        "DATABASE_URL": sqlite_url,
        "EVENT_URLS": "log:#job.failed,https://hooks.example/planted-path",
        "EVENT_SECRET": SECRET,
    }
    with web_client(tmp_path / "data", environ) as web:
        yield web


def test_a_scrape_shows_the_ledger_and_the_destinations_without_their_secrets(
    web: WebClient,
) -> None:
    web.services.outbox.register(["https://gone.example (00000000)"])
    text = web.client.get("/metrics").text
    for name in (
        "receiver_jobs",
        "receiver_backlog",
        "receiver_oldest_due_seconds",
        "receiver_assets_pending",
        "receiver_assets_at_risk",
    ):
        assert f"\n{name}" in text
    assert 'receiver_events_waiting{destination="log:"} 0.0' in text
    assert re.search(
        r'receiver_events_set_aside\{destination="https://hooks.example \(\w+\)"\} 0.0', text
    )
    assert "gone.example" not in text
    assert "planted" not in text
    assert SECRET not in text


def test_a_scrape_does_not_ask_the_ledger_again_at_once(web: WebClient) -> None:
    assert 'receiver_jobs{state="submitting"} 0.0' in web.client.get("/metrics").text
    web.services.hints.add("task-1")
    assert 'receiver_backlog{kind="hints"} 0.0' in web.client.get("/metrics").text
