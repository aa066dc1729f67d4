"""``make advisories``: look the pinned versions up among known vulnerabilities.

It needs the network, so it is not part of ``make check``: a new advisory or a service that is down
must not fail a build.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WITHIN = 300  # seconds


def decide(report: str, complaint: str) -> tuple[int, list[str]]:
    """Read pip-audit's output; return an exit status (1: a known vulnerability) and the report."""
    try:
        found: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = (complaint.strip() or "it said nothing").splitlines()[-1]
        return 0, [f"NOT LOOKED UP: the advisory service cannot be reached ({last})"]
    lines = [_line(package, flaw) for package in found for flaw in package.get("vulns", ())]
    passed_over = [package["name"] for package in found if "skip_reason" in package]
    if passed_over:
        lines.append(
            f"NOT LOOKED UP: {len(passed_over)} of {len(found)} packages,"
            f" which the service does not know: {', '.join(passed_over)}"
        )
    looked_up = len(found) - len(passed_over)
    vulnerable = any(package.get("vulns") for package in found)
    return int(vulnerable), [
        *lines,
        (
            f"{looked_up} packages looked up:"
            f" {'VULNERABLE' if vulnerable else 'nothing known against them'}"
        ),
    ]


def _line(package: dict[str, Any], flaw: dict[str, Any]) -> str:
    mended = ", ".join(flaw.get("fix_versions", ())) or "no version yet"
    return f"{package['name']} {package['version']}: {flaw['id']}, mended in {mended}"


def main() -> None:
    """Look up constraints.txt and print the report."""
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--no-deps",
        "--disable-pip",
        "--progress-spinner=off",
        "--format=json",
    ]
    try:
        done = subprocess.run(
            [*command, "--requirement", str(ROOT / "constraints.txt")],
            capture_output=True,
            text=True,
            check=False,
            timeout=WITHIN,
        )
        status, lines = decide(done.stdout, done.stderr)
    except subprocess.TimeoutExpired:
        status, lines = decide("", f"no answer within {WITHIN} s")
    sys.stdout.write("\n".join([*lines, ""]))
    sys.exit(status)


if __name__ == "__main__":
    main()
