"""The doctor's texts in Chinese: every remedy of its own is translated, and what it found."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from receiver.ledger.queries.signers import REFUSAL_REMEDY
from receiver.ledger.workers import NO_WORKER_REMEDY
from receiver.web.dashboard.translations_doctor import chinese_finding

DOCTOR = Path(__file__).parents[2] / "receiver" / "doctor"


def remedies() -> Iterator[str]:
    """Yield the remedies in the doctor's code: of Trouble, and of its tables."""
    for path in DOCTOR.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Trouble":
                pair = node.args
            elif isinstance(node, ast.Tuple) and path.name == "self_call.py":
                pair = node.elts
            else:
                continue
            match pair:
                case [_, ast.Constant(value=str(remedy))]:
                    yield remedy


def test_every_remedy_of_the_doctor_is_translated() -> None:
    found = {*remedies(), REFUSAL_REMEDY, NO_WORKER_REMEDY}
    assert len(found) > 20
    assert sorted(text for text in found if not chinese_finding(text)) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "SQLite at /data/ledger.sqlite3, schema 0017, 8 jobs, a durable write took 11 ms",
            "SQLite at /data/ledger.sqlite3，结构版本 0017，8 个任务，一次落盘写入用时 11 毫秒",
        ),
        (
            "file:///data/archive, files are written, linked and synced",
            "file:///data/archive：可写入、链接并落盘",
        ),
        ("data: 70.0 GB of 270.6 GB free", "data：共 270.6 GB，剩余 70.0 GB"),
        ("one runs here, and has given no sign of life yet", "本机有一个在运行，尚未报告状态"),
        (
            "https://grsaiapi.com knows our key, 9999 credits left",
            "https://grsaiapi.com 认得密钥，剩余 9999 积分",
        ),
        (
            (
                "correct FAL_KEY, or FAL_BASE_URL where the host is wrong or cannot be reached; "
                "meanwhile its callbacks are read back"
            ),
            "请更正 FAL_KEY；若主机有误或无法连接，请更正 FAL_BASE_URL。在此之前其回调会被回读核实",
        ),
        (
            "no answer at a.test:443 (refused)",
            "a.test:443 没有应答",
        ),
        ("a.test: the certificate has expired", "a.test：证书已过期"),
        ("the provider's own words", None),
    ],
)
def test_what_the_doctor_found_is_shown_in_chinese_or_as_it_is(
    text: str, expected: str | None
) -> None:
    assert chinese_finding(text) == expected
