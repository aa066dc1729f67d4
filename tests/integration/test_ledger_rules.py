"""Rows that the database refuses: each constraint with a row that violates only this one."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from functools import partial

import pytest
from sqlalchemy import CheckConstraint, Connection, UniqueConstraint, text
from sqlalchemy.exc import IntegrityError

from receiver.ledger.database import Database, open_database
from receiver.ledger.tables import metadata

REF = "01KN0000000000000000000000"
ARCHIVED: dict[str, object] = {
    "state": "archived",
    "due_at": None,
    "finished_at": 1.0,
    "key": "k",
    "sha256": "0" * 64,
    "size": 1,
    "content_type": "image/png",
}
FORBIDDEN: list[tuple[str, str, dict[str, object]]] = [
    ("jobs", "ck_jobs_state", {"state": "lost"}),
    ("jobs", "ck_jobs_api", {"api": "telex"}),
    ("jobs", "ck_jobs_mode", {"mode": "fax"}),
    ("jobs", "ck_jobs_outcome", {"outcome": "running"}),
    (
        "jobs",
        "ck_jobs_reason",
        {"state": "failed", "reason": "bad luck", "finished_at": 1.0, "due_at": None},
    ),
    ("jobs", "ck_jobs_reason_iff_failed", {"state": "failed", "finished_at": 1.0, "due_at": None}),
    ("jobs", "ck_jobs_reason_iff_failed", {"reason": "refused"}),
    ("jobs", "ck_jobs_final_is_finished", {"state": "expired"}),
    ("jobs", "ck_jobs_final_is_finished", {"finished_at": 1.0, "due_at": None}),
    ("jobs", "ck_jobs_due_until_finished", {"due_at": None}),
    ("jobs", "ck_jobs_due_until_finished", {"state": "expired", "finished_at": 1.0}),
    (
        "jobs",
        "ck_jobs_claim_is_unfinished",
        {"state": "expired", "finished_at": 1.0, "due_at": None, "claim": "mine"},
    ),
    ("jobs", "ck_jobs_archiving_succeeded", {"state": "archiving"}),
    ("jobs", "ck_jobs_archiving_succeeded", {"state": "archiving", "outcome": "failed"}),
    (
        "jobs",
        "ck_jobs_archiving_succeeded",
        {"state": "archived", "finished_at": 1.0, "due_at": None},
    ),
    ("jobs", "ck_jobs_progress", {"progress": 101}),
    ("jobs", "ck_jobs_progress", {"progress": -1}),
    ("jobs", "uq_jobs_provider_id", {"provider_id": "task-1"}),
    ("jobs", "uq_jobs_key", {"key": "order-1"}),
    ("jobs", "pk_jobs", {"ref": REF}),
    ("deliveries", "ck_deliveries_source", {"source": "rumour"}),
    ("deliveries", "ck_deliveries_verdict", {"verdict": "perhaps"}),
    ("deliveries", "fk_deliveries", {"ref": "nowhere"}),
    ("assets", "ck_assets_state", {"state": "lost", "due_at": None, "finished_at": 1.0}),
    ("assets", "ck_assets_pending_iff_due", {"due_at": None}),
    ("assets", "ck_assets_pending_iff_due", {"state": "failed", "finished_at": 1.0}),
    ("assets", "ck_assets_pending_iff_unfinished", {"finished_at": 1.0}),
    ("assets", "ck_assets_pending_iff_unfinished", {"state": "failed", "due_at": None}),
    (
        "assets",
        "ck_assets_claim_is_pending",
        {"state": "failed", "due_at": None, "finished_at": 1.0, "claim": "mine"},
    ),
    ("assets", "fk_assets", {"ref": "nowhere"}),
    ("events", "ck_events_type", {"type": "job.lost"}),
    ("events", "fk_events", {"ref": "nowhere"}),
    ("events", "uq_events_ref_idx_type_round", {"idx": 0}),
    ("assets", "pk_assets", {"idx": 0}),
    ("assets", "uq_assets_key", ARCHIVED),
    ("hints", "pk_hints", {"provider_id": "task-1"}),
    ("attempts", "fk_attempts", {"ref": "nowhere"}),
    ("sendings", "ck_sendings_state", {"state": "lost", "due_at": None, "finished_at": 1.0}),
    ("sendings", "ck_sendings_pending_iff_unfinished", {"finished_at": 1.0}),
    ("sendings", "ck_sendings_pending_iff_unfinished", {"state": "sent", "due_at": None}),
    ("sendings", "ck_sendings_due_is_pending", {"state": "sent", "finished_at": 1.0}),
    ("sendings", "ck_sendings_claim_is_due", {"due_at": None, "claim": "mine"}),
    ("sendings", "fk_sendings", {"destination": "unknown"}),
    ("sendings", "pk_sendings", {"destination": "log"}),
]
FORBIDDEN += [
    ("assets", "ck_assets_archived_is_known", {**ARCHIVED, "key": "k1", **unknown})
    for unknown in (
        {"key": None},
        {"sha256": None},
        {"sha256": "0" * 63},
        {"size": None},
        {"size": 0},
        {"content_type": None},
    )
]


# What is there already, for UNIQUE to be broken against.
JOB = {
    "ref": REF,
    "provider": "grsai",
    "base_url": "",
    "provider_id": "task-1",
    "api": "draw",
    "mode": "poll",
    "model": "",
    "prompt": "",
    "params": "{}",
    "key": "order-1",
    "state": "waiting",
    "submitted_at": 1.0,
    "deadline_at": 1.0,
    "due_at": 1.0,
}
ROWS: dict[str, dict[str, object]] = {
    "jobs": JOB,
    "deliveries": {
        "ref": REF,
        "source": "poll",
        "verdict": "late",
        "received_at": 1.0,
        "digest": "",
        "body": b"",
    },
    "assets": {"ref": REF, "idx": 0, "url": "", "announced_at": 1.0, "expires_at": 1.0, **ARCHIVED},
    "events": {
        "type": "job.failed",
        "ref": REF,
        "idx": 0,
        "round": 0,
        "created_at": 1.0,
        "payload": "{}",
    },
    "hints": {"provider_id": "task-1", "received_at": 1.0, "due_at": 1.0},
    "attempts": {"ref": REF, "idx": 0, "at": 1.0, "error": "404"},
    "destinations": {"name": "log", "cursor": 0},
    "sendings": {
        "destination": "log",
        "event": 1,
        "ref": REF,
        "state": "pending",
        "since": 1.0,
        "due_at": 1.0,
    },
}
# What the tables would take beside it; each forbidden row differs from these in what is forbidden.
OTHERS: dict[str, dict[str, object]] = {
    "jobs": {**JOB, "ref": "other", "provider_id": "task-2", "key": "order-2"},
    "deliveries": ROWS["deliveries"],
    "assets": {
        "ref": REF,
        "idx": 1,
        "url": "",
        "announced_at": 1.0,
        "expires_at": 1.0,
        "state": "pending",
        "due_at": 1.0,
    },
    "events": {**ROWS["events"], "idx": 1},
    "hints": {**ROWS["hints"], "provider_id": "task-2"},
    "attempts": ROWS["attempts"],
    "sendings": {**ROWS["sendings"], "destination": "queue"},
}


class TakenError(Exception):
    """Raised to roll back a row that the database accepted."""


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    """Fill one ledger with a row in each table; each test leaves it unchanged."""
    if request.param == "sqlite":
        path = tmp_path_factory.mktemp("rules") / "ledger.sqlite3"
        url = f"sqlite:///{shutil.copy(request.getfixturevalue('sqlite_template'), path)}"
    else:
        url = request.getfixturevalue("migrated_postgres")
        request.getfixturevalue("postgres_server").empty(url)
    with closing(open_database(url)) as database:
        for table, row in ROWS.items():
            database.write(partial(insert, table=table, row=row))
        database.write(partial(insert, table="destinations", row={"name": "queue", "cursor": 0}))
        yield database


@pytest.mark.parametrize(("table", "rule", "wrong"), FORBIDDEN)
def test_the_database_refuses_a_row_that_breaks_a_rule(
    database: Database, table: str, rule: str, wrong: dict[str, object]
) -> None:
    with pytest.raises(IntegrityError) as refusal:
        database.write(partial(insert, table=table, row={**OTHERS[table], **wrong}))
    assert names(rule, str(refusal.value.orig))
    with pytest.raises(TakenError):  # but for what is wrong it would be taken
        database.write(partial(insert_and_take_back, table=table, row=OTHERS[table]))


def test_every_rule_has_a_row_that_breaks_it() -> None:
    rules = {
        str(rule.name)
        for table in metadata.sorted_tables
        for rule in table.constraints
        if isinstance(rule, CheckConstraint)
    }
    rules |= {
        str(rule.name)
        for table in metadata.sorted_tables
        for rule in table.constraints
        if isinstance(rule, UniqueConstraint)
    }
    rules |= {
        str(index.name)
        for table in metadata.sorted_tables
        for index in table.indexes
        if index.unique
    }
    tried = {rule for _, rule, _ in FORBIDDEN}
    assert rules <= tried


def insert(connection: Connection, table: str, row: dict[str, object]) -> None:
    columns, places = ", ".join(row), ", ".join(f":{column}" for column in row)
    connection.execute(text(f"INSERT INTO {table} ({columns}) VALUES ({places})"), row)  # noqa: S608 - our own names


def insert_and_take_back(connection: Connection, table: str, row: dict[str, object]) -> None:
    insert(connection, table, row)
    raise TakenError


def names(rule: str, complaint: str) -> bool:
    """Return whether an error is about this rule. SQLite names only CHECKs, not other rules."""
    kind = {"uq": "UNIQUE", "pk": "UNIQUE", "fk": "FOREIGN KEY"}.get(rule[:2], rule)
    own_name = {"pk": "_pkey", "fk": "_fkey"}.get(rule[:2])
    return kind in complaint or (
        f'"{rule[3:]}' in complaint and f'{own_name}"' in complaint
        if own_name
        else rule in complaint
    )
