"""The fixtures of nearly every acceptance test: an installation and its provider, a sandbox."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from installation import Installation

from submitter.sandbox import Sandbox


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Run a sandbox that gives every job the same picture. A module may override this."""
    with Sandbox(looks=1) as running:
        yield running


@pytest.fixture
def installation(tmp_path: Path, sandbox: Sandbox) -> Installation:
    """Return a new installation. Nothing runs there yet."""
    return Installation(tmp_path, sandbox)
