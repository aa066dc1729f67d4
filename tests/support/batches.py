"""Batches for tests: the input file, the command, its report, and what the sandbox received."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from installation import Installation, migrated
from processes import Finished, Running, running

from submitter.sandbox import Sandbox

# What every job asks of the sandbox unless it says otherwise: a small picture, soon.
QUICK = {"delay": 0.05, "progress": 0, "bytes": 20_000}


def quick_sandbox(**script: Any) -> Sandbox:
    """Start a sandbox that costs little time."""
    return Sandbox(looks=4, script={**QUICK, **script})


def a_line(
    prompt: str, *, script: Mapping[str, Any] | None = None, **columns: Any
) -> dict[str, Any]:
    """Return a line that asks for a small picture, with a fault script if one is given."""
    small = {"aspectRatio": "64x64"}  # as a param, which no family of models refuses
    return {"prompt": prompt, **small, **columns, **({"sandbox": script} if script else {})}


def as_jsonl(lines: Sequence[Mapping[str, Any] | str]) -> str:
    """Write lines down; a text stays as it is."""
    return "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)


def batch_file(
    installation: Installation, lines: Sequence[Mapping[str, Any] | str], name: str = "batch.jsonl"
) -> Path:
    """Make a file of lines."""
    path = installation.folder / name
    path.write_text(as_jsonl(lines), encoding="utf-8")
    return path


def batch(
    installation: Installation,
    *arguments: str,
    stdin: str = "",
    environ: Mapping[str, str] | None = None,
) -> Finished:
    """Run the command to its end, inside this process."""
    command = ("submitter", "batch", *arguments)
    migrated(installation.environ)
    return installation.invoke(*command, stdin=stdin, **(environ or {}))


@contextmanager
def batch_running(installation: Installation, *arguments: str) -> Iterator[Running]:
    """Have the command run to the end of the block."""
    migrated(installation.environ)
    command = installation.unchecked(("submitter", "batch", *arguments))
    with running(command, installation.environ, installation.folder) as process:
        yield process


def report(installation: Installation, name: str = "report.jsonl") -> list[dict[str, Any]]:
    """Read a report."""
    return [
        json.loads(line)
        for line in (installation.folder / name).read_text(encoding="utf-8").splitlines()
    ]


def posts(installation: Installation) -> Counter[str]:
    """Count the accepted submits by prompt."""
    return Counter(task["prompt"] for task in installation.tasks())


def posted_refs(installation: Installation) -> Counter[str]:
    """Count the accepted submits by the ref in their callback URL."""
    with installation.services() as services:
        return Counter(
            services.tickets.ref(task["webhook"].rpartition("/")[2])
            for task in installation.tasks()
        )
