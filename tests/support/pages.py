"""The commands of a documentation page, run as a reader would run them."""

import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from commands import invoke
from processes import ROOT


def section(page: str, heading: str) -> str:
    """Return what stands below a heading of docs/``page``."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert f"\n## {heading}\n" in text, f"{page} has no heading {heading!r}"
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def blocks(page: str, heading: str) -> list[list[str]]:
    """Return the lines of each fenced block below a heading, without their comments."""
    return [
        [re.sub(r"\s{2,}#.*", "", line) for line in block.splitlines()]
        for block in re.findall(
            r"^```\n(.*?)^```", section(page, heading), re.MULTILINE | re.DOTALL
        )
    ]


def run_line(line: str, environ: Mapping[str, str], folder: Path) -> int:
    """Run a line as a shell would, our own commands in this process; return the exit status."""
    if line.startswith("receiver "):
        words = shlex.split(re.sub(r"\$(\w+)", lambda found: environ[found[1]], line))
        return invoke(tuple(words), environ, folder=folder).status
    shell = ["/bin/sh", "-ec", line]
    return subprocess.run(shell, check=False, env={**os.environ, **environ}, timeout=30).returncode
