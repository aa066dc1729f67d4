"""The report of a batch: what became of each line, in the order of the lines.

One JSON object a line: the contract's job object and, beside it, ``line`` (its number in the file) and ``key`` (which named the job). A
line that has no job is ``{"line", "error"}``, with its ``key`` between them if that is another job's.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from receiver.jobs.schemas import JobView
from receiver.ledger.queries.jobs import JobQueries
from submitter.batch.job_table import Roll, in_chunks
from submitter.batch.lines import BadLine

STDOUT = "-"
# Jobs in memory at a time; each may have pictures in its request.
_READ_AT_ONCE = 20


def open_report(path: str) -> Path:
    """Make the file the report is written to until it is complete; raise OSError now rather than after everything is paid."""
    part = Path(f"{path}.part")
    part.write_bytes(b"")
    return part


def is_input(path: str, source: str) -> bool:
    """Say whether the report, or the file it is first written to, is the file that the lines come from (``-``: stdin)."""
    written = [Path(path), Path(f"{path}.part")]
    try:
        read = os.fstat(0) if source == STDOUT else Path(source).stat()
    except OSError:
        return False
    return any(os.path.samestat(file.stat(), read) for file in written if file.exists())


def write_report(path: str, queries: JobQueries, roll: Roll, bad: dict[int, BadLine]) -> None:
    """Write the report, in place of an earlier one only when it is complete; ``-`` is stdout."""
    if path == STDOUT:
        for line in _lines(queries, roll, bad):
            click.echo(line)
        return
    part = open_report(path)
    with part.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in _lines(queries, roll, bad))
    part.replace(path)


def _lines(queries: JobQueries, roll: Roll, bad: dict[int, BadLine]) -> Iterator[str]:
    """Merge lines with and without jobs, both in order of their numbers."""
    without = sorted(bad, reverse=True)
    for number, told in _jobs(queries, roll):
        while without and without[-1] < number:
            yield _bad_line(bad[without.pop()])
        yield json.dumps(told, ensure_ascii=False)
    for number in reversed(without):
        yield _bad_line(bad[number])


def _bad_line(bad: BadLine) -> str:
    key = {"key": bad.key} if bad.key is not None else {}
    return json.dumps({"line": bad.number, **key, "error": bad.error}, ensure_ascii=False)


def _jobs(queries: JobQueries, roll: Roll) -> Iterator[tuple[int, dict[str, Any]]]:
    for places in in_chunks(roll.by_number(), _READ_AT_ONCE):
        refs = [roll.ref(place) for place in places]
        assets = queries.assets(refs)
        jobs = {job.ref: job for job in queries.jobs_named(refs)}
        for place, ref in zip(places, refs, strict=True):
            number = roll.number(place)
            if ref in jobs:
                yield (
                    number,
                    {
                        **JobView.of(jobs[ref], assets[ref]).model_dump(mode="json"),
                        "line": number,
                        "key": jobs[ref].key,
                    },
                )
            else:
                # Another process that posts the same key was told to come later, and took its row back until then.
                yield number, {"line": number, "error": f"its job {ref} is just being posted again"}
