"""Error messages of the service, which are English, in Chinese.

Each pattern is a message; its groups fill the translation. An error that no pattern matches (a
provider's own words, for example) is shown as it is.
"""

import re
from collections.abc import Callable

from receiver.web.dashboard.translations_places import PLACES

_TASK = r"(?P<ref>[0-9A-Z]{26})"

_CHINESE: tuple[tuple[str, str], ...] = (
    # An operator's requests.
    (rf"{_TASK} is \w+: there is nothing to retry", "任务 {ref} 无需重试"),
    (
        rf"{_TASK} has no id at the provider, .*: submit it again as a new job",
        "任务 {ref} 没有服务商编号，无法询问结果：请作为新任务重新提交",
    ),
    (
        rf"{_TASK} has no id at the provider, .*: it may have been billed, .*",
        "任务 {ref} 没有服务商编号，无法询问结果：它可能已计费，重新提交前请先在服务商处查找",
    ),
    (r"there is no delivery (?P<n>\d+).*", "没有编号为 {n} 的回报"),
    (r"the body of (?P<n>\d+) was pruned.*", "回报 {n} 的内容已被清理，无法重放"),
    (r"(?P<n>\d+) is still unreadable: (?P<why>.*)", "回报 {n} 仍然无法读取：{why}"),
    (r"(?P<n>\d+) is not an unreadable delivery.*", "回报 {n} 并非无法读取，无需忽略"),
    (rf"there is no asset (?P<n>\d+) of a job {_TASK}", "任务 {ref} 没有第 {n} 个文件"),
    (rf"asset (?P<n>\d+) of {_TASK} is archived already", "任务 {ref} 的第 {n} 个文件已经归档"),
    (
        rf"the rejected file of asset (?P<n>\d+) of {_TASK} is another one by now.*",
        "任务 {ref} 第 {n} 个被拒收的文件已经更换，请重新查看",
    ),
    (
        rf"asset (?P<n>\d+) of {_TASK} has no file in the quarantine",
        "任务 {ref} 的第 {n} 个文件不在隔离区",
    ),
    # The fields of a job.
    (r"Field required", "必填"),
    (r"String should have at least (?P<n>\d+) characters?", "至少需要 {n} 个字符"),
    (r"String should have at most (?P<n>\d+) characters?", "最多 {n} 个字符"),
    (r"Input should be greater than or equal to (?P<n>\d+)", "不能小于 {n}"),
    (r"Input should be less than or equal to (?P<n>\d+)", "不能大于 {n}"),
    (r"Input should be a valid integer.*", "应为整数"),
    (r"write a JSON object, such as .*", "应为 JSON 对象"),
    (r"Input should be (?P<words>'.*)", "应为 {words} 之一"),
    (r"Input should have timezone info", "缺少时区"),
    (r"String should match pattern '.*'", "格式不正确"),
    (r"Extra inputs are not permitted", "没有这个字段"),
    (r"write a number in digits", "请用数字填写"),
    (r"write the ref that is `next` in .*", "请填写上一页的 `next`"),
    (r"write a moment as in (?P<example>\S+)", "请按此格式填写时间：{example}"),
    (r"(Input should be a valid|Datetime).*(date|time).*", "不是有效的时间"),
    (
        r"neither a URL nor a picture; .*",
        "既不是网址也不是图片：请给出 http(s) 网址或 data:image/… 网址",
    ),
    (r"(?P<n>\d+) bytes as JSON; give at most (?P<most>\d+)", "JSON 有 {n} 字节，最多 {most} 字节"),
    (r"a text holds a NUL character", "文本含有 NUL 字符"),
    (r"NaN and Infinity are not numbers in JSON", "JSON 中没有 NaN 和 Infinity"),
    (
        r"not a folder for the archive: .*",
        "不是有效的归档文件夹：请仿照 shop/summer 填写",
    ),
    # A webhook, and addresses to which we do not connect.
    (r"has a # part; .*", "不能含有 # 部分：webhook 会收到此任务的所有事件"),
    (
        r"not the address of a webhook: (?P<why>.*); write .*",
        "不是 webhook 地址（{why}）：请填写 https://域名/路径",
    ),
    (r"not an http or https URL", "不是 http 或 https 网址"),
    (r"a URL with credentials in it", "网址中含有用户名或密码"),
    (r"a URL with control characters", "网址中含有控制字符"),
    (
        r"a URL of (?P<n>\d+) characters; (?P<most>\d+) is the most",
        "网址有 {n} 个字符，最多 {most} 个",
    ),
    (r"no valid host in a URL: .*", "网址中的主机名无效"),
    (
        r"(?P<host>\S+) on port (?P<n>\d+): only 80 and 443; .* add (?P<entry>\S+) to FETCH_ALLOW",
        "{host} 的端口 {n} 不允许，只能用 80 和 443：若确有需要，请把 {entry} 加入 FETCH_ALLOW",
    ),
    (
        r"(?P<host>\S+)( leads to \S+)?: .*; if this is meant, add (?P<entry>.+) to FETCH_ALLOW",
        "不允许连接 {host}：若确有需要，请把 {entry} 加入 FETCH_ALLOW",
    ),
    (
        r"EVENT_SECRET: not set, so the events of a job's webhook .*",
        "EVENT_SECRET 未设置，无法为 webhook 的事件签名：请为整个服务设置它，或不填 webhook",
    ),
    (
        r"only the newer API has (?P<model>.+): use .*",
        "只有新版 API 提供 {model}，此表单不支持",
    ),
    (r"(?P<model>.+) has no 1K, 2K or 4K: .*", "{model} 不支持 1K、2K、4K"),
    (r"(?P<model>.+) does not take pixels: .*", "{model} 不支持以像素指定尺寸"),
    (r"(?P<model>.+) does not take (?P<size>[^:]+): .*", "{model} 不支持尺寸 {size}"),
    (
        r"(?P<model>.+) takes sides that are multiples of (?P<n>\d+) pixels",
        "{model} 的边长须为 {n} 像素的倍数",
    ),
    (
        r"(?P<model>.+) takes sides up to (?P<n>\d+) pixels, and no side more than (?P<m>\d+) .*",
        "{model} 的边长最多 {n} 像素，且长边不超过短边的 {m} 倍",
    ),
    (
        r"(?P<model>.+) makes (one picture|up to (?P<n>\d+)) a job: .*",
        "{model} 每个任务不能生成这么多图片：请分成多个任务",
    ),
    (
        r"(?P<model>.+) takes .*, not (?P<n>\d+): leave out the others",
        "{model} 不接受 {n} 张参考图：请减少数量",
    ),
    (
        r"(?P<provider>\w+) has no model (?P<model>[^;]+); name one, such as (?P<example>.+)",
        "{provider} 没有模型 {model}：请填写其模型名，例如 {example}",
    ),
    (r"(?P<provider>\w+) has no streams; .*", "{provider} 没有监听流：请用回调或主动询问"),
    (r"(?P<provider>\S+) has no size (?P<size>[^:]+): .*", "{provider} 不支持尺寸 {size}"),
    (
        r"the field for reference pictures .* at (?P<provider>\S+): .* perhaps (?P<field>.+)",
        "{provider} 的参考图字段因模型而异：请在其他参数中填写，例如 {field}",
    ),
    (r"model: '(?P<model>.*)' is not a model's name.*", "模型名 {model} 不正确"),
    (
        r"--param sync_mode: fal would not keep the result.*",
        "参数 sync_mode：fal 不会保留结果，回调也可能过大；请去掉",
    ),
    (
        rf"the key (?P<key>.+) belongs to job {_TASK}, which was asked for something else; .*",
        "键 {key} 属于任务 {ref}，其请求不同；没有提交",
    ),
    # What is missing for a submit.
    (
        r"(?P<name>[A-Z_]+): not set; a job cannot be posted without the provider's key",
        "{name} 未设置：没有服务商的密钥无法提交任务",
    ),
    (r"(?P<name>[A-Z_]+): not set[;,:].*", "{name} 未设置"),
    (r"(?P<n>\d+) submits are in progress already", "已有 {n} 个提交正在进行，请稍后再试"),
)
Patterns = tuple[tuple[re.Pattern[str], str], ...]


def compiled(texts: tuple[tuple[str, str], ...]) -> Patterns:
    """Return pairs of a pattern and its translation, ready for ``chinese_words``."""
    return tuple((re.compile(pattern, re.DOTALL), words) for pattern, words in texts)


def chinese_words(patterns: Patterns, message: str) -> str | None:
    """Return the translation of the first pattern that matches the whole message, or None."""
    for pattern, words in patterns:
        if found := pattern.fullmatch(message):
            groups = {name: text or "" for name, text in found.groupdict().items()}
            if "why" in groups:
                why = groups["why"]
                groups["why"] = by_parts(_known, why) or why
            return words.format(**groups)
    return None


_COMPILED = compiled((*_CHINESE, *PLACES))


def chinese_error(message: str) -> str:
    """Return an error message in Chinese, or as it is if there is no translation."""
    return _known(message) or message


def _known(message: str) -> str | None:
    return chinese_words(_COMPILED, message)


def by_parts(translate: Callable[[str], str | None], text: str) -> str | None:
    """Translate a text as a whole, or else the parts between semicolons one by one.

    Parts without a translation stay as they are; None if no part has one.
    """
    whole = translate(text)
    if whole is not None or "; " not in text:
        return whole
    parts = [(part, translate(part)) for part in text.split("; ")]
    return "；".join(found or part for part, found in parts) if any(dict(parts).values()) else None
