"""What the doctor finds, which is English, in Chinese: each text and remedy of its checks.

Errors of databases, buckets, providers and hosts are those of ``translations_errors``. What no
pattern matches (their own words) is shown as it is.
"""

from receiver.web.dashboard.translations_errors import (
    by_parts,
    chinese_error,
    chinese_words,
    compiled,
)

_REMEDIES = (
    (
        r"start the database, or correct DATABASE_URL; .*",
        "启动数据库，或更正 DATABASE_URL；使用 SQLite 时请腾出磁盘空间，并让本用户可写 DATA_DIR",
    ),
    (
        r"repair it as the text says; jobs wait, .*",
        "请按上文修复；任务会等待，图片网址失效之前不会丢失",
    ),
    (r"do not use this server", "不要使用此服务器"),
    (
        r"start `receiver serve` or `receiver worker` on this ledger",
        "请在此账本上启动 `receiver serve` 或 `receiver worker`",
    ),
    (
        r"put the removed secret back, .*",
        "请把移除的密钥放回第一个之后，直到 `receiver secrets list` 显示其任务已全部结束",
    ),
    (
        r"make the disk larger, or move the archive to a bucket; .*",
        "请扩大磁盘，或把归档移到存储桶；磁盘写满后回调会被拒绝",
    ),
    (r"set GRSAI_API_KEY", "请设置 GRSAI_API_KEY"),
    (
        r"correct (?P<key>[A-Z_]+), or (?P<url>[A-Z_]+) where .* reached; meanwhile .*",
        "请更正 {key}；若主机有误或无法连接，请更正 {url}。在此之前其回调会被回读核实",
    ),
    (
        r"correct (?P<key>[A-Z_]+), or (?P<url>[A-Z_]+) where .*",
        "请更正 {key}；若主机有误或无法连接，请更正 {url}",
    ),
    (
        r"set (?P<name>\S+) to it if that is our account, or leave .*",
        "若那是我们的账号，请把 {name} 设为它；或不设置 {name}，由服务自行学习",
    ),
    (r"buy some, or use another key", "请充值，或换一个密钥"),
    (
        r"let NTP set it \(timedatectl set-ntp true\)",
        "请用 NTP 校时（timedatectl set-ntp true）",
    ),
    (
        r"repair the destination, or correct EVENT_URLS or FETCH_ALLOW; .*",
        (
            "请修复目标，或更正 EVENT_URLS 或 FETCH_ALLOW；`receiver events --test 名称` 发送测试，"
            "`receiver resend --waiting` 立即发送等待中的事件"
        ),
    ),
    # Our own callback.
    (r"renew it", "请续期"),
    (
        r"get (one|a certificate) that is trusted everywhere.*",
        "请使用处处受信任的证书，例如 Let's Encrypt 签发的",
    ),
    (
        r"configure the server to send the intermediate certificates too \(fullchain.pem\)",
        "请让服务器一并发送中间证书（fullchain.pem）",
    ),
    (r"get one for the host of PUBLIC_URL", "请使用与 PUBLIC_URL 主机名相符的证书"),
    (
        r"start `receiver serve`, and open the port in proxy and firewall; or correct PUBLIC_URL.*",
        "请启动 `receiver serve`，并在代理和防火墙中放行端口；或更正 PUBLIC_URL",
    ),
    (r"let /callback/ through.*", "请放行 /callback/，不要要求登录，防火墙也不得拦截"),
    (
        r"configure the proxy to pass (?P<what>.*) on.*",
        "请让代理原样转发 {what}，或更正 PUBLIC_URL",
    ),
    (
        r"raise the proxy's limit to CALLBACK_MAX_BYTES.*",
        "请把代理的上限提高到 CALLBACK_MAX_BYTES（nginx：client_max_body_size）",
    ),
    (
        r"start `receiver serve`, and point the proxy at it",
        "请启动 `receiver serve`，并让代理指向它",
    ),
    (r"look at /readyz.*", "请查看 /readyz、代理的超时设置，以及 `receiver serve` 是否在运行"),
    (r"create its DNS record, or correct PUBLIC_URL", "请添加 DNS 记录，或更正 PUBLIC_URL"),
    (r"use a public address in PUBLIC_URL", "PUBLIC_URL 请使用公网地址"),
    (r"configure TLS in the proxy, or correct PUBLIC_URL", "请在代理中配置 TLS，或更正 PUBLIC_URL"),
    (
        r"look into the proxy's log; it must pass on POST bodies of up to CALLBACK_MAX_BYTES",
        "请查看代理日志；它必须转发不超过 CALLBACK_MAX_BYTES 的 POST 内容",
    ),
    (
        r"set PUBLIC_URL to that address, or turn the redirect off",
        "请把 PUBLIC_URL 设为该地址，或关闭重定向",
    ),
    (
        r"set the same CALLBACK_SECRETS on every machine; .*",
        "请在每台机器上设置相同的 CALLBACK_SECRETS；若是另一套安装，请更正 PUBLIC_URL",
    ),
    (
        r"something else answers there: correct proxy or PUBLIC_URL",
        "那里应答的是别的程序：请更正代理或 PUBLIC_URL",
    ),
)
_FAILING = tuple(
    (
        rf"(?P<name>.+): {fails}{age}, attempt (?P<attempt>\d+): (?P<why>.*)",
        f"{{name}}：{number} 个发送失败{old}，第 {{attempt}} 次尝试：{{why}}",
    )
    for fails, number in ((r"(?P<n>\d+) deliveries fail", "{n}"), (r"a delivery fails", "1"))
    for age, old in ((r", the oldest is (?P<age>.+?) old", "，最早的已有 {age}"), ("", ""))
)
_FOUND = (
    (
        (
            r"(?P<kind>SQLite at .+|PostgreSQL), schema (?P<schema>\S+), (?P<n>\d+) jobs, "
            r"a durable write took (?P<ms>\d+) ms"
        ),
        "{kind}，结构版本 {schema}，{n} 个任务，一次落盘写入用时 {ms} 毫秒",
    ),
    (r"(?P<place>.+), files are written, linked and synced", "{place}：可写入、链接并落盘"),
    (
        r"(?P<n>\d+) on (?P<hosts>.+), last heartbeat (?P<s>\d+) s ago",
        "{hosts} 上有 {n} 个，{s} 秒前还在运行",
    ),
    (r"one runs here, and has sent no heartbeat yet", "本机有一个在运行，尚未报告状态"),
    (r"the service does not run here", "服务不在本机运行"),
    (r"no worker serves this ledger: .*", "没有工作进程服务此账本：回调会保存，但不会归档"),
    (r"(?P<name>\w+) signs callback URLs", "{name} 用于签署回调地址"),
    (
        r"(?P<name>\w+) signs callback URLs, (?P<old>.*) accepted too",
        "{name} 用于签署回调地址，{old} 仍被接受",
    ),
    (
        r"unfinished jobs were signed with a callback secret that is not configured.*",
        "有未完成的任务由未配置的回调密钥签署：其回调会被拒绝，改为主动询问",
    ),
    (
        r"(?P<place>[^,]+): (?P<free>[^,]+) of (?P<size>[^,]+) free",
        "{place}：共 {size}，剩余 {free}",
    ),
    (r"little disk space, (?P<disks>.*)", "磁盘空间不足：{disks}"),
    (r"the ledger cannot be read", "无法读取账本"),
    (
        r"GRSAI_API_KEY is not set; OPENAI_API_KEY is, but a check would cost money",
        "未设置 GRSAI_API_KEY；已设置 OPENAI_API_KEY，但检查它要花钱",
    ),
    (r"GRSAI_API_KEY is not set; other providers are", "未设置 GRSAI_API_KEY，但设置了其他服务商"),
    (
        r"GRSAI_API_KEY is not set: no job can be posted and no lost callback polled",
        "未设置 GRSAI_API_KEY：无法提交任务，也无法询问丢失的结果",
    ),
    (r"(?P<url>\S+): no credits are left", "{url}：积分已用完"),
    (r"(?P<url>\S+) knows our key, (?P<n>\S+) credits left", "{url} 认得密钥，剩余 {n} 积分"),
    (r"(?P<url>\S+) sends no time to compare with", "{url} 没有可比较的时间"),
    (r"within (?P<s>\d+) s of (?P<url>\S+)", "与 {url} 相差不到 {s} 秒"),
    (
        r"this machine's clock is (?P<s>\d+) s (ahead of|behind) (?P<url>\S+)",
        "本机时钟与 {url} 相差 {s} 秒",
    ),
    (r"(?P<server>.+) returns other bytes than were stored", "{server} 返回的内容与存入的不同"),
    (
        r"S3 by (?P<server>.+), put, read back, hashed, deleted",
        "S3（{server}）：写入、读回、校验、删除均正常",
    ),
    (r"each object is read back after its put", "每个对象写入后都会读回"),
    (
        r"objects are not read back, because it rejects a wrong SHA-256",
        "服务器会拒绝错误的 SHA-256，因此不读回对象",
    ),
    (
        r"no conditional put: each put first checks if the key is free",
        "不支持条件写入：每次写入前先检查键是否可用",
    ),
    (r"accepts a wrong SHA-256", "接受错误的 SHA-256"),
    (r"keeps no metadata: .*", "不保存元数据：只有写入对象的进程能发现损坏"),
    (
        r"may not be listed: .*",
        "不能列出对象：`receiver rebuild` 与 `audit --deep` 无法工作（请允许 s3:ListBucket）",
    ),
    (r"serves no signed links: .*", "不提供签名链接：文件由本服务的 API 提供"),
    (
        r"cannot delete: .*",
        "不能删除：此测试对象会留下，隔离区满后不再接收文件（请允许 s3:DeleteObject）",
    ),
    (r"(?P<url>\S+) knows our key", "{url} 认得密钥"),
    (r"(?P<name>\S+) is set, not tried", "{name} 已设置，未测试"),
    (r"(?P<name>\S+) is set, not tried, (?P<n>\S+) credits left", "{name} 已设置，剩余 {n} 积分"),
    (r"callbacks are signed with a secret of each job", "回调以各任务的密钥签名"),
    (
        r"callbacks are verified by their ticket only, and read back",
        "回调只凭签名地址核实，并会回读",
    ),
    (r"(?P<n>\d+) keys? to verify callbacks", "有 {n} 个公钥用于核实回调"),
    (
        (
            r"(?P<name>\w+) signed a callback about a task of ours at (?P<at>\S+) for the account "
            r"(?P<id>.+), which is not accepted as ours: .*"
        ),
        "{name} 于 {at} 为账号 {id} 签署了我们任务的回调，该账号不被接受：此类回调会回读核实",
    ),
    *_FAILING,
    (
        r"(?P<name>.+): jobs name webhooks, but EVENT_SECRET is not set, so they get no events",
        "{name}：有任务指定了 webhook，但未设置 EVENT_SECRET，因此收不到事件",
    ),
    (
        r"set it again, or delete them with (?P<do>`.*`)",
        "请重新设置它，或用 {do} 删除它们",
    ),
    (
        (
            r"(?P<n>\d+) destinations, no delivery fails, (?P<waiting>\d+) wait, (?P<aside>\d+) "
            r"events set aside .*"
        ),
        "{n} 个目标，没有发送失败，{waiting} 个在等待，{aside} 个被搁置（见 `receiver events`）",
    ),
    (r"of (?P<size>\d+) bytes (?P<n>\S+) arrived", "{size} 字节只到达 {n}"),
    (r"(?P<name>https?://\S+ \([0-9a-f]{8}\)): (?P<why>.*)", "{name}：{why}"),
    (r"EVENT_URLS is not set: no events are sent", "未设置 EVENT_URLS：不发送事件"),
    (
        r"(?P<n>\d+) destinations, no delivery fails, (?P<waiting>\d+) wait",
        "{n} 个目标，没有发送失败，{waiting} 个在等待",
    ),
    (
        r"PUBLIC_URL is not set: results are polled, no callback can be requested",
        "未设置 PUBLIC_URL：主动询问结果，无法使用回调",
    ),
    (
        r"(?P<url>\S+) leads to us, answered in (?P<ms>\d+) ms, bodies of (?P<n>\d+) bytes pass",
        "{url} 可到达本服务，{ms} 毫秒内应答，可通过 {n} 字节的内容",
    ),
    (
        (
            r"(?P<url>\S+) leads to us, answered in (?P<ms>\d+) ms, bodies of (?P<n>\d+) bytes "
            r"pass, the certificate is valid for (?P<days>\d+) days"
        ),
        "{url} 可到达本服务，{ms} 毫秒内应答，可通过 {n} 字节的内容，证书还有 {days} 天有效",
    ),
    (r"the name (?P<host>\S+) has no address .*", "域名 {host} 没有地址"),
    (
        r"(?P<host>\S+) leads to (?P<ip>\S+) \(.*\), where the provider cannot call",
        "{host} 指向 {ip}，服务商无法访问",
    ),
    (r"(?P<host>[^\s:]+): the certificate has expired", "{host}：证书已过期"),
    (r"(?P<host>[^\s:]+): the certificate is self-signed", "{host}：证书是自签名的"),
    (r"(?P<host>[^\s:]+): the certificate's chain .*", "{host}：证书链不完整或不受信任"),
    (r"(?P<host>[^\s:]+): the certificate is for another name", "{host}：证书属于另一个域名"),
    (r"(?P<host>[^\s:]+): port (?P<n>\d+) does not use TLS .*", "{host}：端口 {n} 没有使用 TLS"),
    (r"no answer at (?P<place>\S+) .*", "{place} 没有应答"),
    (r"no answer to a body of (?P<n>\d+) bytes .*", "对 {n} 字节的内容没有应答"),
    (
        r"(?P<url>\S+) redirects to (?P<to>.*): a POST is lost there",
        "{url} 重定向到 {to}，POST 会丢失",
    ),
    (
        r"(?P<url>\S+) leads to a receiver that does not know our tickets",
        "{url} 到达的服务不认得我们的签名",
    ),
    (
        r"(?P<url>\S+) answers (?P<status>\d+) to a body of (?P<n>\d+) bytes: .*",
        "{url} 对 {n} 字节的内容应答 {status}",
    ),
    (
        r"(?P<url>\S+) answers (?P<status>\d+), but not like this service",
        "{url} 应答 {status}，但不像是本服务",
    ),
)
_COMPILED = compiled((*_REMEDIES, *_FOUND))


def chinese_finding(text: str) -> str | None:
    """Return a text of the doctor in Chinese, None if it is not translated.

    A text of several findings is translated one by one; those without a translation stay.
    """
    return by_parts(_one, text)


def _one(text: str) -> str | None:
    if found := chinese_words(_COMPILED, text):
        return found
    found = chinese_error(text)
    return None if found == text else found
