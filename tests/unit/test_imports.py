"""What is not imported until it is needed: drivers, decoders, and what takes much memory."""

import subprocess
import sys

from processes import ROOT

# The last ones are extras.
PACKAGES = ("psycopg", "PIL", "boto3", "cryptography", "openai", "mcp", "opentelemetry")


def test_web_and_worker_do_not_import_what_most_installations_do_not_need() -> None:
    code = "import receiver.web, receiver.cli.worker; receiver.web.create_app()"
    asked = f"import sys; {code}; print([name for name in {PACKAGES} if name in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", asked],
        capture_output=True, text=True, check=True, cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert found.stdout == "[]\n"
