"""The doctor's texts in Chinese: every remedy of its own is translated, and what it found."""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from itertools import product
from pathlib import Path

import pytest

from receiver.archive.stores import directory, s3_errors
from receiver.archive.stores.s3_probe import Capabilities
from receiver.doctor import destinations, self_call
from receiver.ledger.queries.signers import REFUSAL_REMEDY, refusal
from receiver.ledger.user_ids import Mismatch
from receiver.ledger.workers import NO_WORKER_REMEDY
from receiver.model import Provider
from receiver.web.dashboard.translations_doctor import chinese_finding

PACKAGE = Path(__file__).parents[2] / "receiver"
DOCTOR = PACKAGE / "doctor"
LACKING = [
    field.name for field in fields(Capabilities) if field.type == "bool" or field.type is bool
]


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


# Where texts come from that the doctor shows: its own, and the errors of what it tries.
SHOWN = {
    "doctor/*.py": ("Trouble", "NothingToCheck"),
    "archive/stores/*.py": ("StoreError", "MissingObjectError"),
    "ledger/*.py": ("LedgerError", "ReceiverError"),
    "providers/client.py": ("ProviderError", "ProviderUnavailableError"),
    "providers/named_address.py": ("ProviderUnavailableError",),
    "net/policy.py": ("AddressRefusedError",),
    "net/connection.py": ("FetchError",),
    "events/*.py": ("EventNotDeliveredError", "ReceiverError"),
    "services/sending.py": ("ReceiverError",),
}
# What stands in texts at the place of an expression; else a number or a host.
SAMPLES = {
    "ahead": ["ahead of"],
    "doing": ["list"],
    "self._place()": ["the bucket 'b' at https://a.test"],
    "remedy": ["no permission: give this user the right to write there"],
    "remedy(error)": ["correct S3_STORAGE_CLASS"],
    "self._suspicion(error)": [""],
    "text": ["the certificate has expired", "POST is not allowed", "data: 7 GB of 9 GB free"],
    "dialect.server": ["a.test"],
    "number": ["7 deliveries fail", "a delivery fails", "7"],
    "age": ["", ", the oldest is 7 min old"],
    "kind": ["PostgreSQL"],
    "known": ["https://a.test knows our key", "A_KEY is set, not tried"],
    "credits_": ["", ", 7 credits left"],
    "_verification(dialect, keys)": ["7 keys to verify callbacks"],
    "rest": ["", ", 7 events set aside (`receiver events` shows them)"],
    "old": ["", ", b accepted too"],
    "until": ["", ", the certificate is valid for 7 days"],
    "aside": ["", "; redirects are not followed, name the last address instead"],
    "host": ["a.test"],
    "reason": ["expired"],
}


def readings(node: ast.expr) -> list[str]:
    """Return what a text in the code may become; nothing for anything else."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.IfExp(body=one, orelse=other):
            return [*readings(one), *readings(other)]
        case ast.JoinedStr(values=parts):
            return ["".join(chosen) for chosen in product(*map(pieces, parts))]
    return []


def pieces(part: ast.expr) -> list[str]:
    if not isinstance(part, ast.FormattedValue):
        return readings(part)
    name = ast.unparse(part.value)
    return SAMPLES.get(name) or readings(part.value) or ["7", "a.test"]


def shown_texts() -> Iterator[tuple[str, list[str]]]:
    """Yield each text that the doctor may show, and what it may be."""
    for pattern, errors in SHOWN.items():
        for path in sorted(PACKAGE.glob(pattern)):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                text: ast.expr | None = None
                if isinstance(node, ast.Call) and ast.unparse(node.func) in errors and node.args:
                    text = node.args[0]
                elif isinstance(node, ast.Return | ast.Yield) and path.parent.name == "doctor":
                    text = node.value
                if text is not None and (found := readings(text)):
                    yield f"{path.name}: {ast.unparse(text)}", found


def remains_english(text: str) -> bool:
    """Return whether a translation still has a sentence of ours; commands stay as they are."""
    said = chinese_finding(text) or text
    return re.search(r"[a-z]+ [a-z]+ [a-z]+", re.sub(r"`[^`]*`", "", said)) is not None


def test_every_text_that_the_doctor_shows_is_translated() -> None:
    texts = dict(shown_texts())
    assert len(texts) > 70
    missing = [
        name
        for name, found in texts.items()
        if name != "self_call.py: 'another path'"
        and any(found)
        and all(map(remains_english, found))
    ]
    assert missing == [], "\n".join(missing)


def tables() -> Iterator[str]:
    """Yield the texts that stand in tables."""
    yield from directory._REMEDIES.values()
    yield from s3_errors._BY_CODE.values()
    yield from s3_errors._BY_TYPE.values()
    yield s3_errors._KMS
    yield from Capabilities("a.test", **dict.fromkeys(LACKING, False)).lacks()
    yield from (f"a.test: {text}" for text, _ in self_call._CERTIFICATE.values())
    for status, (text, _) in self_call._BY_STATUS.items():
        yield f"https://a.test answers {status} to a body of 7 bytes: {text}"
    yield refusal([])
    yield str(Mismatch(Provider.FAL, "user 7", 0.0))
    yield Mismatch(Provider.FAL, "user 7", 0.0).remedy
    yield destinations._NO_SECRET


def test_every_text_in_a_table_is_translated() -> None:
    found = list(tables())
    assert len(found) > 60
    assert [text for text in found if remains_english(text)] == []


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
        ("one runs here, and has sent no heartbeat yet", "本机有一个在运行，尚未报告状态"),
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
        (
            (
                "cannot list the bucket 'b' at https://a.test: the bucket does not exist there: "
                "create it or correct ARCHIVE_URL; it says: no such thing (404 NoSuchBucket)"
            ),
            (
                "无法使用存储桶 'b' at https://a.test：那里没有这个存储桶：请创建它，或更正 "
                "ARCHIVE_URL；服务器说：no such thing (404 NoSuchBucket)"
            ),
        ),
        (
            "the ledger cannot be used now: connection refused",
            "账本现在无法使用：connection refused",
        ),
        (
            (
                "https://a.test (0123abcd): 7 deliveries fail, the oldest is 3 days old, attempt "
                "9: a.test answered 503; log:: the provider's own words"
            ),
            (
                "https://a.test (0123abcd)：7 个发送失败，最早的已有 3 days，第 9 次尝试："
                "a.test 应答 503；log:: the provider's own words"
            ),
        ),
        ("the provider's own words", None),
    ],
)
def test_what_the_doctor_found_is_shown_in_chinese_or_as_it_is(
    text: str, expected: str | None
) -> None:
    assert chinese_finding(text) == expected
