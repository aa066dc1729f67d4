"""What a test does when a real part (a server, a browser) is not on this machine."""

import os
from typing import NoReturn

import pytest


def missing(part: str) -> NoReturn:
    """Skip the test, or fail it if ``CI`` or ``REQUIRE_REAL_PARTS=1`` requires all parts."""
    if os.environ.get("CI") or os.environ.get("REQUIRE_REAL_PARTS") == "1":
        pytest.fail(f"{part} is missing here, and CI or REQUIRE_REAL_PARTS=1 is set")
    pytest.skip(f"{part} is not installed")
