"""What is left after a round: the ledger's rows, the archive's objects, the provider's tasks."""

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
    """The seconds from a fault until the service worked again, and the seconds allowed."""

    what: str
    seconds: float
    allowed: float
    at: float = 0.0  # when it worked again, in seconds since the epoch


@dataclass(slots=True)
class Evidence:
    """What the promises are checked with. ``objects`` and ``manifests`` are by archive key."""

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
    broken_invariants: dict[str, list[str]] = field(
        default_factory=dict
    )  # what the service's own audit says
    recoveries: list[Recovery] = field(default_factory=list)
    cut: list[str] = field(
        default_factory=list
    )  # requests that got no answer although no fault allows that
    provider_ids: dict[str, str] = field(
        default_factory=dict
    )  # the provider's ids in the API's answers, by prompt
    happened: list[Row] = field(default_factory=list)  # lines for the history
    rebuilt: bool = False  # then the bodies of deliveries are gone, their digests not

    def write(self, path: Path) -> None:
        """Write it to a file, for people."""
        path.write_text(json.dumps(asdict(self), indent=1, default=str), encoding="utf-8")


def gather(
    services: Services, archive: Archive, sandbox: Sandbox, acknowledged: list[Acknowledgement]
) -> Evidence:
    """Gather everything. The service must be stopped, so that no temporary file is in use."""
    found = services.totals.audit()
    broken = (
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
        broken_invariants=broken,
    )


def _rows(services: Services, table: Table, names: set[str] | None = None) -> list[Row]:
    columns = [column for column in table.columns if names is None or column.name in names]
    query = select(*columns).order_by(*table.primary_key.columns)
    return services.database.read(
        lambda connection: [dict(row) for row in connection.execute(query).mappings()]
    )


def _digested(row: Mapping[str, Any]) -> Row:
    body = row["body"]
    return {
        **{name: value for name, value in row.items() if name != "body"},
        "body_digest": sha256(body).hexdigest(),
        "size": len(body),
    }


def _left_over(data: Path, archive: Archive) -> list[str]:
    """Return every temporary file: in the scratch folder or hidden in the archive."""
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
