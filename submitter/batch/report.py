"""The report of a batch: the result of each line, in the order of the lines.

One JSON object a line: the contract's job object with one more field, ``line`` (its number in the
file), and with --output ``files``, the paths of its pictures. A line without a job is
``{"line", "error"}``; it also has ``key`` if that key belongs to another job.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from receiver.cli.base import say, to_json
from submitter.batch.job_table import JobTable, in_chunks
from submitter.batch.lines import BadLine
from submitter.batch.output import Output
from submitter.submit import Transport

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


def write_report(
    path: str,
    jobs: Transport,
    table: JobTable,
    bad: dict[int, BadLine],
    output: Output | None = None,
) -> None:
    """Write the report to ``path`` (``-``: stdout); an older report is replaced only at the end."""
    lines = _lines(jobs, table, bad, output)
    if path == STDOUT:
        for line in lines:
            say(line)
        return
    part = open_report(path)
    with part.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
    part.replace(path)


def _lines(
    jobs: Transport, table: JobTable, bad: dict[int, BadLine], output: Output | None
) -> Iterator[str]:
    """Merge lines with and without jobs, both in order of their numbers."""
    without_job = sorted(bad, reverse=True)
    for number, entry in _jobs(jobs, table, output):
        while without_job and without_job[-1] < number:
            yield _bad_line(bad[without_job.pop()])
        yield to_json(entry)
    for number in reversed(without_job):
        yield _bad_line(bad[number])


def _bad_line(bad: BadLine) -> str:
    key = {"key": bad.key} if bad.key is not None else {}
    return to_json({"line": bad.number, **key, "error": bad.error})


def _jobs(
    jobs: Transport, table: JobTable, output: Output | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    for rows in in_chunks(table.by_number(), _READ_AT_ONCE):
        refs = [table.ref(row) for row in rows]
        found = jobs.named(refs)
        for row, ref in zip(rows, refs, strict=True):
            number = table.number(row)
            if ref in found:
                files = {} if output is None else {"files": output.paths(found[ref])}
                yield number, {**found[ref].model_dump(mode="json"), "line": number, **files}
            else:
                # Another process posts the same key. Its provider asked it to come later, so it
                # deleted its row until then.
                yield number, {"line": number, "error": f"its job {ref} is being posted again"}
