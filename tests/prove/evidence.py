"""What is left after a round, gathered while nothing runs: the ledger's rows, the archive's objects, the provider's own books."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import Table, select

from receiver.ledger.tables import assets, deliveries, events, job_columns, jobs
from receiver.services import Services
from submitter.sandbox import Sandbox
from tests.prove.recording_proxy import Acknowledgement
from tests.prove.setups import Archive, digests, is_hidden

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Recovery:
    """How long it took after a blow until the service worked again, in seconds, and how long it may have taken."""

    what: str
    seconds: float
    allowed: float


@dataclass(slots=True)
class Evidence:
    """Everything the promises are held against. Keys of ``objects`` and ``manifests`` are the archive's own."""

    acknowledged: list[Acknowledgement] = field(default_factory=list)
    tasks: list[Row] = field(
        default_factory=list
    )  # as the provider describes them, with what was asked
    jobs: list[Row] = field(default_factory=list)
    assets: list[Row] = field(default_factory=list)
    deliveries: list[Row] = field(
        default_factory=list
    )  # in the order of their ids, ``body`` replaced by ``body_digest``
    events: list[Row] = field(default_factory=list)
    objects: dict[str, str] = field(default_factory=dict)  # SHA-256
    manifests: dict[str, Any] = field(default_factory=dict)
    left_over: list[str] = field(default_factory=list)  # temporary files
    broken_laws: dict[str, list[str]] = field(
        default_factory=dict
    )  # what the service's own audit says
    recoveries: list[Recovery] = field(default_factory=list)
    cut: list[str] = field(
        default_factory=list
    )  # requests without an answer where there should always be one
    told: dict[str, str] = field(
        default_factory=dict
    )  # the provider's ids that the API told, by prompt
    rebuilt: bool = False  # then the bodies of deliveries are gone, their digests not

    def write(self, path: Path) -> None:
        """Keep it for people."""
        path.write_text(json.dumps(asdict(self), indent=1, default=str), encoding="utf-8")


def gather(
    services: Services, archive: Archive, sandbox: Sandbox, acknowledged: list[Acknowledgement]
) -> Evidence:
    """Look everywhere. The service must have been stopped: what is temporary has no excuse then."""
    found = services.totals.audit()
    laws = (
        found.broken
        if found.difference == 0
        else {**found.broken, f"{found.difference} jobs are nowhere": []}
    )
    return Evidence(
        acknowledged=list(acknowledged),
        tasks=[sandbox.task(task["id"]) for task in sandbox.tasks()],
        jobs=_rows(services, jobs, {column.name for column in job_columns}),
        assets=_rows(services, assets),
        deliveries=[_digested(row) for row in _rows(services, deliveries)],
        events=_rows(services, events),
        objects=digests(archive),
        manifests={
            name: json.loads(archive.read(name))
            for name in archive.names()
            if name.endswith("/job.json")
        },
        left_over=_left_over(services.settings.data_dir, archive),
        broken_laws=laws,
    )


def _rows(services: Services, table: Table, names: set[str] | None = None) -> list[Row]:
    columns = [column for column in table.columns if names is None or column.name in names]
    question = select(*columns).order_by(*table.primary_key.columns)
    return services.database.read(
        lambda connection: [dict(row) for row in connection.execute(question).mappings()]
    )


def _digested(row: Mapping[str, Any]) -> Row:
    body = row["body"]
    return {
        **{name: value for name, value in row.items() if name != "body"},
        "body_digest": sha256(body).hexdigest(),
        "size": len(body),
    }


def _left_over(data: Path, archive: Archive) -> list[str]:
    """Name every temporary file: on its way to the archive, or hidden in it."""
    scratch = [
        str(path.relative_to(data)) for path in (data / "scratch").rglob("*") if path.is_file()
    ]
    hidden = [
        f"archive/{name}"
        for name in archive.names()
        if is_hidden(name) and not name.endswith(".receiver")
    ]
    stray = [
        str(path.relative_to(data))
        for path in data.glob("*")
        if path.name.startswith((".", "tmp")) or path.suffix == ".tmp"
    ]
    stray = [
        name for name in stray if name != ".archive.receiver"
    ]  # the note that there was an archive
    return scratch + hidden + stray
