"""What is not imported until it is needed."""

import subprocess
import sys

import pytest
from processes import ROOT


@pytest.mark.parametrize(
    ("code", "package"),
    [
        pytest.param("import receiver.services", "psycopg", id="the driver of PostgreSQL"),
        pytest.param("import receiver.web; receiver.web.create_app()", "PIL", id="the decoder"),
    ],
)
def test_a_process_without_need_of_a_package_does_not_import_it(code: str, package: str) -> None:
    asked = f"import sys; {code}; print({package!r} in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", asked],
        capture_output=True, text=True, check=True, cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert found.stdout == "False\n"
