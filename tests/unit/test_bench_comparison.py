"""``make bench --compare`` names what became slower, and nothing else."""

from pathlib import Path

import click
import pytest

from tests.bench.comparison import Ratios, load, ratios, save, slower
from tests.bench.measurements import Line, Result


def test_a_lower_rate_and_a_longer_time_are_slower_and_little_changes_are_not() -> None:
    before: Ratios = {"rate": (0.6, True), "time": (1.5, False), "gone": (1.0, True)}
    worse: Ratios = {"rate": (0.5, True), "time": (1.8, False), "new": (9.0, False)}
    assert list(slower(before, worse)) == [
        "slower: rate, ratio 0.60 before, 0.50 now (1.20 times)",
        "slower: time, ratio 1.50 before, 1.80 now (1.20 times)",
        "compared 2 ratios with the earlier run",
    ]
    alike: Ratios = {"rate": (0.53, True), "time": (1.7, False)}
    assert list(slower(before, alike)) == ["compared 2 ratios with the earlier run"]
    better: Ratios = {"rate": (0.9, True), "time": (0.7, False)}
    assert list(slower(before, better)) == ["compared 2 ratios with the earlier run"]


def test_saved_ratios_are_read_back(tmp_path: Path) -> None:
    lines = [Line("acknowledged", "1/s", [2.0], [4.0]), Line("p99", "ms", [3.0], [2.0])]
    found = ratios("callbacks", Result("title", "no-op", lines))
    save(tmp_path / "before.json", found)
    assert load(tmp_path / "before.json") == found
    assert found["callbacks: acknowledged"] == (0.5, True)


@pytest.mark.parametrize("content", ["", "[]", '{"name": 3}', '{"name": ["much", true]}'])
def test_any_other_file_is_a_clear_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "other").write_text(content)
    with pytest.raises(click.UsageError, match="not a file that --save wrote"):
        load(tmp_path / "other")
