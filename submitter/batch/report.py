"""The report of a batch: the result of each line, in the order of the lines.

One JSON object a line: the contract's job object with two more fields, ``line`` (its number in the
file) and ``key`` (the key of the job). A line without a job is ``{"line", "error"}``; it also has
``key`` if that key belongs to another job.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from receiver.jobs.schemas import JobView
from receiver.ledger.queries.jobs import JobQueries
from submitter.batch.job_table import JobTable, in_chunks
from submitter.batch.lines import BadLine

STDOUT = "-"
# Jobs in memory at a time; each may have pictures in its request.
_READ_AT_ONCE = 20


def open_report(path: str) -> Path:
    """Create the temporary file of the report and return its path.

    Raise OSError now, before the first job is posted and paid.
    """
    part = Path(f"{path}.part")
    part.write_bytes(b"")
    return part


def is_input(path: str, source: str) -> bool:
    """Return whether the report or its temporary file is the input file (``-``: stdin)."""
    written = [Path(path), Path(f"{path}.part")]
    try:
        read = os.fstat(0) if source == STDOUT else Path(source).stat()
    except OSError:
        return False
    return any(os.path.samestat(file.stat(), read) for file in written if file.exists())


def write_report(path: str, queries: JobQueries, table: JobTable, bad: dict[int, BadLine]) -> None:
    """Write the report to ``path`` (``-``: stdout); an older report is replaced only at the end."""
    if path == STDOUT:
        for line in _lines(queries, table, bad):
            click.echo(line)
        return
    part = open_report(path)
    with part.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in _lines(queries, table, bad))
    part.replace(path)


def _lines(queries: JobQueries, table: JobTable, bad: dict[int, BadLine]) -> Iterator[str]:
    """Merge lines with and without jobs, both in order of their numbers."""
    without_job = sorted(bad, reverse=True)
    for number, entry in _jobs(queries, table):
        while without_job and without_job[-1] < number:
            yield _bad_line(bad[without_job.pop()])
        yield json.dumps(entry, ensure_ascii=False)
    for number in reversed(without_job):
        yield _bad_line(bad[number])


def _bad_line(bad: BadLine) -> str:
    key = {"key": bad.key} if bad.key is not None else {}
    return json.dumps({"line": bad.number, **key, "error": bad.error}, ensure_ascii=False)


def _jobs(queries: JobQueries, table: JobTable) -> Iterator[tuple[int, dict[str, Any]]]:
    for rows in in_chunks(table.by_number(), _READ_AT_ONCE):
        refs = [table.ref(row) for row in rows]
        jobs = {job.ref: job for job in queries.jobs_named(refs)}
        assets = queries.assets(refs)  # after the jobs, so that an ended one has no pending ones
        for row, ref in zip(rows, refs, strict=True):
            number = table.number(row)
            if ref in jobs:
                job = JobView.of(jobs[ref], assets[ref]).model_dump(mode="json")
                yield number, {**job, "line": number, "key": jobs[ref].key}
            else:
                # Another process posts the same key. Its provider asked it to come later, so it
                # deleted its row until then.
                yield number, {"line": number, "error": f"its job {ref} is being posted again"}
