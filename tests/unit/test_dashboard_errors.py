"""Errors in Chinese: every message of our own that a page can show has a translation."""

import re
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from receiver.errors import mistakes_in
from receiver.jobs.request import GrsaiRequest
from receiver.jobs.schemas import JobsQuery
from receiver.web.dashboard.translations_errors import chinese_error

CHINESE = re.compile(r"[\u4e00-\u9fff]")
REF = "01M8CMV2KEDA5KXZCY3N35END7"


def mistakes(model: type[BaseModel], values: dict[str, Any]) -> list[str]:
    """Return the messages about wrong values."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate(values)
    return [text for _, text in mistakes_in(caught.value)]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"prompt": ""},
        {"prompt": "x" * 100_001},
        {"prompt": "a\x00b"},
        {"prompt": "a", "params": {"x": float("nan")}},
        {"prompt": "a", "params": []},
        {"prompt": "a", "variants": 0},
        {"prompt": "a", "variants": 99},
        {"prompt": "a", "variants": "many"},
        {"prompt": "a", "variants": 9},
        {"prompt": "a", "mode": "pigeon"},
        {"prompt": "a", "images": ["/etc/passwd"]},
        {"prompt": "a", "size": "large"},
        {"prompt": "a", "model": "nano-banana", "size": "123x457"},
        {"prompt": "a", "model": "sora-2", "size": "4K"},
        {"prompt": "a", "model": "sora-2", "images": ["https://a.test"] * 20},
        {"prompt": "a", "provider": "fal"},
        {"prompt": "a", "model": "a/b", "provider": "fal", "mode": "stream"},
        {"prompt": "a", "model": "a/b", "provider": "fal", "images": ["https://a.test"]},
        *(
            {"prompt": "a", "model": "a/b", "provider": provider, "size": "4K"}
            for provider in ("fal", "replicate", "bfl", "kie")
        ),
        {"prompt": "a", "model": "a/b", "provider": "bfl", "variants": 2},
        {"prompt": "a", "folder": "../up"},
        *(
            {"prompt": "a", "webhook": url}
            for url in (
                "a",
                "https://a.test/#x",
                "https://u:p@a.test",
                "https://a:99999",
                "https://" + "a" * 9999,
            )
        ),
        {"prompt": "a", "metadata": {"a": "x" * 5000}},
        {"prompt": "a", "nonsense": 1},
    ],
)
def test_a_mistake_in_a_job_is_named_in_chinese(values: dict[str, Any]) -> None:
    found = mistakes(GrsaiRequest, values)
    assert found
    assert [text for text in found if not CHINESE.search(chinese_error(text))] == []


@pytest.mark.parametrize(
    "values",
    [
        {"state": "odd"},
        {"since": "monday"},
        {"since": "2026-99-99T00:00:00Z"},
        {"since": "2026-01-01T00:00"},
        {"q": "x" * 501},
        {"after": "x"},
    ],
)
def test_a_mistake_in_a_search_is_named_in_chinese(values: dict[str, Any]) -> None:
    found = mistakes(JobsQuery, values)
    assert [text for text in found if not CHINESE.search(chinese_error(text))] == []


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (f"{REF} is archived: there is nothing to retry", f"任务 {REF} 无需重试"),
        (f"asset 2 of {REF} is archived already", f"任务 {REF} 的第 2 个文件已经归档"),
        ("7 is still unreadable: not JSON", "回报 7 仍然无法读取：not JSON"),
        (
            "not the address of a webhook: a URL with credentials in it; write https://host/path",
            "不是 webhook 地址（网址中含有用户名或密码）：请填写 https://域名/路径",
        ),
        (
            "a.test leads to 10.0.0.1: private; if this is meant, add a.test to FETCH_ALLOW",
            "不允许连接 a.test：若确有需要，请把 a.test 加入 FETCH_ALLOW",
        ),
        (
            "a.test on port 8: only 80 and 443; if this is meant, add a.test:8 to FETCH_ALLOW",
            "a.test 的端口 8 不允许，只能用 80 和 443：若确有需要，请把 a.test:8 加入 FETCH_ALLOW",
        ),
        ("a.test: cut short, 5 of 9 bytes came", "a.test：传输中断，9 字节中只收到 5 字节"),
        ("it cannot be decoded", "无法解码"),
        ("8 submits are in progress already", "已有 8 个提交正在进行，请稍后再试"),
        ("model: '../x' is not a model's name, such as flux-2-pro", "模型名 ../x 不正确"),
        ("the provider's own {words}", "the provider's own {words}"),
    ],
)
def test_an_error_is_shown_in_chinese_or_as_it_is(message: str, expected: str) -> None:
    assert chinese_error(message) == expected
