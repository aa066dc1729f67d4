"""The fixtures of nearly every acceptance test: an installation, and the sandbox that is its provider."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from installation import Installation

from submitter.sandbox import Sandbox


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Run a sandbox that gives all jobs the same picture. A module overrides this for another one."""
    with Sandbox(looks=1) as running:
        yield running


@pytest.fixture
def installation(tmp_path: Path, sandbox: Sandbox) -> Installation:
    """Return a new installation. Nothing runs there yet."""
    return Installation(tmp_path, sandbox)
