"""What a test does when a real part (a server, a browser) is not on this machine."""

import os
from typing import NoReturn

import pytest


def missing(part: str) -> NoReturn:
    """Skip the test on a laptop; fail it where all parts must be there, that is with ``CI`` or ``REQUIRE_REAL_PARTS=1`` set."""
    if os.environ.get("CI") or os.environ.get("REQUIRE_REAL_PARTS") == "1":
        pytest.fail(f"{part} is missing here, and CI or REQUIRE_REAL_PARTS=1 is set")
    pytest.skip(f"{part} is not installed")
