"""Make a SQLite ledger of a million jobs, or of ten, for measurements; all of it is invented.

There is a job every 2.5 s up to now: 10 % failed, 0.1 % expired, the newest ones open. Every second
job has two deliveries, every third a batch, every tenth a key and a value in its metadata. The
events of the newest jobs were delivered, some deliveries fail.
"""

import json
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import URL, Connection, create_engine, text
from ulid import ULID

from receiver.ledger import schema
from receiver.ledger.text_index import _place, pieces

APART = 2.5  # seconds between jobs
OPEN, NOTIFIED = 200, 100_000  # newest jobs that are open, and whose events have deliveries
DESTINATION = "https://events.test/hook"
MODELS = ("gpt-image-1.5", "nano-banana", "nano-banana-pro", "sora-image", "gpt-image-2")
WORDS = (
    *("fox", "owl", "lighthouse", "snow", "city", "circuit", "glass", "violin"),
    *("tram", "rain", "desert", "train", "fog", "reef", "crane"),
)
RARE = "雪地里的狐狸"  # in the prompt of one job
_BODY = '{"id":"%s","status":"%s","progress":100,"results":[{"url":"https://files.test/0.png"}]}'
_DIGEST = "0" * 64
# The columns of each table's rows. In ``job_words`` both databases have something else.
_COLUMNS = {
    "jobs": "ref, provider_id, model, prompt, state, outcome, reason, key, batch, metadata,"
    " submitted_at, deadline_at, ended_at, finished_at, due_at, requested, provider, base_url, api,"
    " mode, params",
    "job_metadata": "ref, name, value",
    "deliveries": "ref, source, verdict, received_at, digest, body",
    "assets": "ref, idx, state, url, announced_at, expires_at, due_at, key, sha256, size,"
    " finished_at, content_type",
    "events": "type, ref, idx, created_at, round, payload",
    "job_words": "ref, pieces",
}
_REQUEST = (1, "grsai", "https://provider.test", "draw", "webhook", "{}")
_URL = "https://files.test/0.png"
_INDEX_WORDS = """
WITH moved AS (DELETE FROM words RETURNING ref, pieces)
INSERT INTO job_words (ref, pieces)
SELECT ref, array_to_tsvector(string_to_array(pieces, ' ')) FROM moved"""
_SENDINGS = """
INSERT INTO sendings
    (destination, event, ref, state, since, due_at, attempts, error, finished_at)
SELECT :destination, id, ref, 'sent', created_at, NULL, 1, '', created_at
FROM events WHERE id > :since AND id % 50 != 0
UNION ALL
SELECT :destination, id, ref, 'pending', created_at, created_at + 1e6, 1, 'answered 500', NULL
FROM events WHERE id > :since AND id % 50 = 0"""
_PORTION = 20_000  # jobs written at a time


@dataclass(frozen=True, slots=True)
class Shape:
    """How many jobs there are, and when the first was submitted (epoch seconds)."""

    jobs: int
    began: float

    @classmethod
    def until_now(cls, jobs: int) -> "Shape":
        """Return the shape of a ledger whose newest job was submitted now."""
        return cls(jobs, time.time() - jobs * APART)

    def moment(self, number: int) -> float:
        """Return when the job of this number was submitted."""
        return self.began + number * APART

    def ref(self, number: int) -> str:
        """Return the ref of the job of this number."""
        moment = int(self.moment(number) * 1000).to_bytes(6, "big")
        return str(ULID.from_bytes(moment + number.to_bytes(10, "big")))

    def state(self, number: int) -> str:
        """Return the state of a job."""
        if number >= self.jobs - OPEN:
            return "archiving"
        if number % 1000 == 0:
            return "expired"
        return "failed" if number % 10 == 0 else "archived"


def shape_of(path: Path | str) -> Shape:
    """Return the shape of a ledger that was made before: its refs contain it."""
    with closing(sqlite3.connect(path)) as connection:
        first, last = (
            connection.execute(f"SELECT {which}(ref) FROM jobs").fetchone()[0]  # noqa: S608 - constants
            for which in ("min", "max")
        )
    jobs = int.from_bytes(ULID.from_str(last).bytes[6:], "big") + 1
    return Shape(jobs, ULID.from_str(first).milliseconds / 1000)


def rows(shape: Shape) -> Iterator[dict[str, list[tuple[Any, ...]]]]:
    """Give the rows of each job by table."""
    dice = random.Random(7)  # noqa: S311 - a figure, no secret
    for number in range(shape.jobs):
        words = [*dice.choices(WORDS, k=12), *([RARE] if number == 7 else [])]
        yield _rows_of(shape, number, words)


def _rows_of(shape: Shape, number: int, words: list[str]) -> dict[str, list[tuple[Any, ...]]]:
    ref, state, at = shape.ref(number), shape.state(number), shape.moment(number)
    task, model = f"task-{number:08d}", MODELS[number % 5 if number % 97 else 4]
    end, due_at = (None, at + 60) if state == "archiving" else (at + 40, None)
    batch = f"batch-{number // 1500}" if number % 3 == 0 else None
    key = f"order-{number:08d}" if number % 10 == 1 else None
    reason = "output_moderation" if state == "failed" else None
    outcome = {"failed": "failed", "expired": None}.get(state, "succeeded")
    campaign = f"campaign-{number % 1000}" if key else None
    metadata = json.dumps({"campaign": campaign}) if key else "{}"
    named = (ref, task, model, " ".join(words), state, outcome, reason)
    found: dict[str, list[tuple[Any, ...]]] = {
        "jobs": [(*named, key, batch, metadata, at, at + 3600, end, end, due_at, *_REQUEST)],
        "job_words": [(ref, _indexed((model, key, batch, *words)))],
        "deliveries": [],
        "job_metadata": [(ref, "campaign", campaign)] if campaign else [],
    }
    body = (_BODY % (task, outcome)).encode()
    for later in range(1 + number % 2):
        verdict = "duplicate" if later else "ended"
        found["deliveries"].append((ref, "callback", verdict, at + 30 + later, _DIGEST, body))
    found["assets"] = []
    found["events"] = [(f"job.{state}", ref, -1, end, 0, "{}")] if end else []
    if state == "archived":
        file: tuple[Any, ...] = (f"2026/01/01/{ref}/0.png", f"{number:064x}", 900_000, end)
        found["assets"] = [(ref, 0, state, _URL, at + 30, at + 7230, None, *file, "image/png")]
        found["events"].insert(0, ("asset.archived", ref, 0, at + 35, 0, "{}"))
    elif state == "archiving":
        file = (None, None, 900_000, None)
        found["assets"] = [
            (ref, 0, "pending", _URL, at + 30, at + 7230, at + 90, *file, "image/png")
        ]
    return found


def _indexed(texts: tuple[str | None, ...]) -> str:
    return " ".join(dict.fromkeys(chain.from_iterable(_pieces(text) for text in texts if text)))


@cache
def _pieces_of_word(word: str) -> list[str]:
    return pieces(word)


def _pieces(text: str) -> list[str]:
    return _pieces_of_word(text) if text in WORDS or text in MODELS else pieces(text)


def make(url: str, shape: Shape) -> None:
    """Write a SQLite or PostgreSQL ledger with direct SQL: our own code would take hours."""
    schema.migrate(url)
    engine = create_engine(url)
    try:
        if engine.dialect.name == "postgresql":
            _fill_postgresql(engine.url, shape)
        else:
            _fill_sqlite(url.removeprefix("sqlite:///"), shape)
        with engine.begin() as connection:
            _deliver(connection)
            if engine.dialect.name == "postgresql":  # in a service autovacuum does it
                connection.execute(text("ANALYZE"))
    finally:
        engine.dispose()


def _portions(shape: Shape) -> Iterator[Iterator[tuple[str, list[tuple[Any, ...]]]]]:
    """Yield portions of jobs, of each the rows by table."""
    found = rows(shape)
    while portion := list(islice(found, _PORTION)):
        yield (
            (table, list(chain.from_iterable(job[table] for job in portion))) for table in _COLUMNS
        )


def _fill_sqlite(path: str, shape: Shape) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-1000000"):
            connection.execute(f"PRAGMA {pragma}")
        for portion in _portions(shape):
            connection.execute("BEGIN")
            for table, found in portion:
                columns, values = _COLUMNS[table], found
                if table == "job_words":
                    columns, values = "rowid, pieces", [(_place(ref), its) for ref, its in found]
                marks = ",".join("?" * len(columns.split(",")))
                connection.executemany(
                    f"INSERT INTO {table} ({columns}) VALUES ({marks})",  # noqa: S608 - constants
                    values,
                )
            connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode=WAL")


def _fill_postgresql(url: URL, shape: Shape) -> None:
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address) as connection:
        # No foreign keys are checked: they are right.
        connection.execute("SET session_replication_role = replica")
        connection.execute("CREATE TEMPORARY TABLE words (ref TEXT, pieces TEXT)")
        connection.execute("DROP INDEX ix_job_words_pieces")
        for portion in _portions(shape):
            for table, found in portion:
                target = "words" if table == "job_words" else table
                query = f"COPY {target} ({_COLUMNS[table]}) FROM STDIN"
                with connection.cursor().copy(query.encode()) as copy:
                    for row in found:
                        copy.write_row(row)
            connection.execute(_INDEX_WORDS)
        connection.execute("CREATE INDEX ix_job_words_pieces ON job_words USING GIN (pieces)")


def _deliver(connection: Connection) -> None:
    """Queue deliveries of the newest events: sent, and every fiftieth failing."""
    newest = connection.execute(text("SELECT max(id) FROM events")).scalar() or 0
    values = {"destination": DESTINATION, "newest": newest, "since": newest - NOTIFIED}
    connection.execute(
        text("INSERT INTO destinations (name, cursor) VALUES (:destination, :newest)"), values
    )
    connection.execute(text(_SENDINGS), values)
