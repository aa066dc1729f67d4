"""Counters for Prometheus, right with several processes: each writes its own file, a scrape adds them up."""

import os
import shutil
from pathlib import Path


def prepare(data_dir: Path) -> None:
    """Have the processes started from here share their counts. Must run before ``prometheus_client`` is first imported."""
    folder = data_dir / "metrics"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
