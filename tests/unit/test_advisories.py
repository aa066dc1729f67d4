"""What ``make advisories`` makes of pip-audit's output; the service itself is asked by hand."""

import json
import re
from pathlib import Path

from advisories import decide

CLEAN = {"name": "flask", "version": "3.1.0", "vulns": []}
HOLED = {
    "name": "pillow",
    "version": "1.0",
    "vulns": [{"id": "CVE-1", "fix_versions": ["1.1", "2.0"]}, {"id": "CVE-2", "fix_versions": []}],
}
UNKNOWN = {"name": "own", "skip_reason": "not found"}


def report(*packages: object) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


def test_a_known_hole_fails_and_names_the_version_that_mends_it() -> None:
    status, lines = decide(report(CLEAN, HOLED), "")
    assert status == 1
    assert lines == [
        "pillow 1.0: CVE-1, mended in 1.1, 2.0",
        "pillow 1.0: CVE-2, mended in no version yet",
        "2 packages looked up: VULNERABLE",
    ]


def test_what_could_not_be_looked_up_is_said_and_is_no_clean_bill() -> None:
    assert decide(report(UNKNOWN), "")[1] == [
        "NOT LOOKED UP: 1 of 1 packages, which the service does not know: own",
        "0 packages looked up: nothing known against them",
    ]
    assert decide("", "Traceback\nConnectionError: no way there\n") == (
        0,
        ["NOT LOOKED UP: the advisory service cannot be reached (ConnectionError: no way there)"],
    )
    assert decide("[]", "")[0] == 0


def test_nothing_known_passes() -> None:
    assert decide(report(CLEAN), "") == (0, ["1 packages looked up: nothing known against them"])


def test_it_is_a_target_of_its_own_and_no_part_of_the_checks_that_run_offline() -> None:
    makefile = (Path(__file__).resolve().parents[2] / "Makefile").read_text(encoding="utf-8")
    assert "tests/support/advisories.py" in makefile
    for target in ("lint", "test", "check"):
        recipe = re.search(rf"^{target}:(.*\n(?:\t.*\n)*)", makefile, re.MULTILINE)
        assert recipe is not None
        assert "advisories" not in recipe[1]
