"""What databases, archives, providers and hosts say is wrong, which is English, in Chinese.

The parts of a text that come from elsewhere (a driver's or a server's words) stay as they are; a
part ``why`` is translated by itself.
"""

# The ledger.
_LEDGER = (
    (
        r"the ledger cannot be used now: (?P<why>.*); (?P<remedy>set .* in the pooler.*)",
        "账本现在无法使用：{why}；请按 docs/operations.md 设置连接池：{remedy}",
    ),
    (r"the ledger cannot be used now: (?P<why>.*)", "账本现在无法使用：{why}"),
    (r"the ledger is not as this release needs it: (?P<why>.*)", "账本与此版本不符：{why}"),
    (
        r"the ledger's schema is missing, this release needs (?P<need>\S+): run (?P<do>.*)",
        "账本没有结构，此版本需要 {need}：请运行 {do}",
    ),
    (
        r"the ledger's schema is (?P<found>\S+), this release needs (?P<need>\S+): run (?P<do>.*)",
        "账本的结构版本为 {found}，此版本需要 {need}：请运行 {do}",
    ),
    (
        r"the ledger is a copy that is not whole yet: .*",
        "账本是尚未完成的副本：请停止旧服务，再次运行 `receiver migrate --from`",
    ),
    (r"the ledger cannot be made: (?P<why>.*)", "无法创建账本：{why}"),
    (r"the ledger cannot be written now: (?P<why>.*)", "账本现在无法写入：{why}"),
    (r"the ledger took no write for (?P<s>\d+) s", "账本已有 {s} 秒无法写入"),
    (r"the ledger rolled its transaction back .*", "账本撤销了事务（磁盘已满或读写错误）"),
    (r"the write was interrupted", "写入被中断"),
    (
        r"cannot find out whether the ledger is in use \((?P<why>.*)\): .*",
        "无法判断账本是否正在使用（{why}）：请以服务的用户运行",
    ),
    (
        r"asset (?P<n>\d+) of (?P<ref>\S+) was archived meanwhile, with another file",
        "任务 {ref} 的第 {n} 个文件已由另一个文件归档",
    ),
    (r"there is no job (?P<ref>\S+)", "没有任务 {ref}"),
    (
        r"there is no destination (?P<name>.*); known are: (?P<known>.*)",
        "没有目标 {name}；已知的有：{known}",
    ),
    (
        r"event (?P<n>\d+) is not set aside; .*",
        "事件 {n} 没有被搁置；`receiver events` 列出被搁置的事件",
    ),
)
# The archive: a directory or a bucket.
_ARCHIVE = (
    (
        r"cannot .+? the archive directory (?P<place>.+?): (?P<why>.*)",
        "无法使用归档目录 {place}：{why}",
    ),
    (
        r"cannot .+? the bucket (?P<place>'\S+'( at \S+?)?): (?P<why>.*)",
        "无法使用存储桶 {place}：{why}",
    ),
    (
        r"there is no archive directory (?P<place>.+) any more, or an empty one: .*",
        "归档目录 {place} 不存在或已变空：请挂载它，或更正 ARCHIVE_URL",
    ),
    (
        r"there is no archive directory (?P<place>.+): mount it, .*",
        "没有归档目录 {place}：请挂载它，或更正 ARCHIVE_URL",
    ),
    (
        r"there is no directory (?P<place>.+) to hold the archive: .*",
        "没有存放归档的目录 {place}：请创建或挂载它，或更正 ARCHIVE_URL",
    ),
    (
        r"the archive holds no object at all: .*",
        "归档中没有任何文件：请挂载它，或更正 ARCHIVE_URL",
    ),
    (
        r"AWS_ENDPOINT_URL_S3 is not a URL: .*",
        "AWS_ENDPOINT_URL_S3 不是网址：请写成 https://域名:端口",
    ),
    (
        r"AWS_ENDPOINT_URL_S3 contains the bucket, .* write AWS_ENDPOINT_URL_S3=(?P<url>\S+)",
        "AWS_ENDPOINT_URL_S3 含有桶名，而 ARCHIVE_URL 已写明：请写 AWS_ENDPOINT_URL_S3={url}",
    ),
    (r"another thread is still trying to write to the bucket", "另一个线程仍在尝试写入存储桶"),
    (
        r"(?P<place>.+) was stored damaged: its SHA-256 is \S+ instead of \S+",
        "{place} 存入后已损坏：SHA-256 不符",
    ),
    (r"the object is damaged: its SHA-256 is \S+ instead of \S+", "对象已损坏：SHA-256 不符"),
    (
        r"(?P<place>.+) already holds other bytes .*",
        "{place} 已有其他内容，保留先存入的内容",
    ),
    (
        r"the file changed while it was archived as (?P<key>\S+): .*",
        "文件在归档为 {key} 时发生了变化",
    ),
    (r"there is no such object", "没有这个对象"),
    # What the operating system says of a directory.
    (r"the disk is full: .*", "磁盘已满：请腾出空间或扩大磁盘"),
    (r"the disk quota is used up: .*", "磁盘配额已用完：请腾出空间或提高配额"),
    (r"the file system is mounted read-only: .*", "文件系统以只读方式挂载：请改为可写"),
    (r"no permission: .*", "没有权限：请让本用户可以写入"),
    (r"not permitted: choose .*", "不允许：请选择支持硬链接的文件系统，并让本用户可以写入"),
    (
        r"the file system has no hard links or no locks: .*",
        "文件系统不支持硬链接或锁：请换一个",
    ),
    (r"a file stands where a directory should be: .*", "应为目录处是一个文件：请更正 ARCHIVE_URL"),
    # What a server says of a bucket, with our remedy before it.
    (r"(?P<why>.+); it says: (?P<said>.*)", "{why}；服务器说：{said}"),
    (
        r"(?P<why>.+); if it is not meant so: (?P<more>.*)",
        "{why}；若并非有意如此：{more}",
    ),
    (r"the bucket does not exist there: .*", "那里没有这个存储桶：请创建它，或更正 ARCHIVE_URL"),
    (
        r"the access key is not known there: .*",
        "那里不认得此访问密钥：请更正 AWS_ACCESS_KEY_ID",
    ),
    (
        r"the secret key is wrong: .*",
        "密钥有误：请更正 AWS_SECRET_ACCESS_KEY；也可能是途中的代理改变了 Host 或路径",
    ),
    (r"the credentials have expired: .*", "凭据已过期：请更新，无需重启"),
    (
        r"the session token is wrong.*: correct AWS_SESSION_TOKEN",
        "会话令牌有误或已过期：请更正 AWS_SESSION_TOKEN",
    ),
    (r"the credentials have expired, or .*", "凭据已过期，或本机时钟有误"),
    (r"this machine's clock is wrong: set it", "本机时钟有误：请校时"),
    (
        r"not permitted: allow these credentials .*",
        "没有权限：请允许此凭据对存储桶及前缀执行 s3:PutObject、s3:GetObject 与 s3:ListBucket",
    ),
    (r"it lives in another region: set (?P<what>\S+)", "存储桶在另一个区域：请设置 {what}"),
    (r"correct S3_STORAGE_CLASS", "请更正 S3_STORAGE_CLASS"),
    (r"the object lies in an archive: .*", "对象在归档存储层：请更换 S3_STORAGE_CLASS"),
    (r"set S3_ADDRESSING_STYLE=virtual", "请设置 S3_ADDRESSING_STYLE=virtual"),
    (r"the bytes it received have another SHA-256: .*", "服务器收到的内容 SHA-256 不符：途中损坏"),
    (r"it is overloaded, later it may work", "服务器过载，稍后可能恢复"),
    (
        r"correct S3_SSE_KMS_KEY_ID, .*",
        "请更正 S3_SSE_KMS_KEY_ID，并允许此凭据使用该密钥（kms:GenerateDataKey、kms:Decrypt）",
    ),
    (
        r"there are no credentials: .*",
        "没有凭据：请设置 AWS_ACCESS_KEY_ID 与 AWS_SECRET_ACCESS_KEY",
    ),
    (
        r"the credentials are incomplete: .*",
        "凭据不完整：请同时设置 AWS_ACCESS_KEY_ID 与 AWS_SECRET_ACCESS_KEY",
    ),
    (r"no server answers: .*", "没有服务器应答：请更正 AWS_ENDPOINT_URL_S3，或等它恢复"),
    (r"no answer in time, or the connection is too slow", "没有及时应答，或连接太慢"),
    (
        r"it does not answer like an S3 server: .*",
        "应答不像 S3 服务器：请更正 AWS_ENDPOINT_URL_S3",
    ),
    (r"the connection was cut", "连接被切断"),
)
# Providers.
_PROVIDERS = (
    (r"(?P<url>\S+) cannot be asked for credits now: (?P<why>.*)", "{url} 无法查询积分：{why}"),
    (r"(?P<url>\S+) cannot be asked now: (?P<why>.*)", "{url} 现在无法连接：{why}"),
    (r"the provider cannot be asked now: (?P<why>.*)", "现在无法询问服务商：{why}"),
    (
        r"(?P<url>\S+) is not asked: it is not one of the provider's hosts",
        "{url} 不是该服务商的主机，因此未询问",
    ),
    (r"no keys at (?P<url>\S+): (?P<why>.*)", "{url} 没有公钥：{why}"),
    (r"(?P<name>\S+) is not set: the provider cannot be asked", "{name} 未设置：无法询问服务商"),
    (r"no connection to (?P<url>\S+): (?P<why>.*)", "无法连接 {url}：{why}"),
    (
        r"the submit went to (?P<url>\S+) and its answer was lost: (?P<why>.*)",
        "任务已发往 {url}，但没有收到应答：{why}",
    ),
    (r"the provider's answers lead nowhere", "服务商的应答没有结果"),
    (
        r"the provider redirects to (?P<to>.*): set (?P<name>\S+) to (?P<url>\S+)",
        "服务商重定向到 {to}：请把 {name} 设为 {url}",
    ),
    (r"the provider redirects to (?P<to>.*)", "服务商重定向到 {to}"),
    (r"HTTP (?P<status>\d+)( without credits)?", "HTTP {status}"),
)
# Hosts that are called: webhooks, queues, downloads.
_HOSTS = (
    (
        r"(?P<host>\S+) answered (?P<status>\S+); redirects are not followed, .*",
        "{host} 应答 {status}；不跟随重定向，请直接填写最终地址",
    ),
    (r"(?P<host>\S+) answered (?P<status>\S+)", "{host} 应答 {status}"),
    (r"(?P<name>\S+) cannot be reached: (?P<why>.*)", "无法连接 {name}：{why}"),
    (
        r"(?P<url>\S+) could not be reached, so this delivery was not tried again",
        "{url} 无法连接，因此没有再次尝试",
    ),
    (r"(?P<url>\S+) has all threads that one host may have", "{url} 已占满单个主机可用的线程"),
    (r"the job has no webhook", "任务没有 webhook"),
    (r"the event is gone from the ledger", "账本中已没有此事件"),
    (
        r"unexpected error in the attempt \((?P<what>\S+)\); .*",
        "尝试时发生意外错误（{what}），详见日志",
    ),
    (
        r"(?P<host>\S+) is not one of FETCH_HOSTS; .*",
        "{host} 不在 FETCH_HOSTS 中；若确有需要，请加入",
    ),
    (r"(?P<host>\S+) leads to (?P<ip>\S+), which is not an address", "{host} 指向 {ip}，不是地址"),
    (r"(?P<host>[^\s:]+): TLS failed, (?P<why>.*)", "{host}：TLS 失败，{why}"),
    (r"(?P<host>[^\s:]+): broken HTTP answer, (?P<why>.*)", "{host}：HTTP 应答有误，{why}"),
    (r"(?P<host>[^\s:]+): Connection refused", "{host}：连接被拒绝"),
    (
        r"(?P<host>[^\s:]+): cut short, (?P<n>\d+) of (?P<all>\d+) bytes came",
        "{host}：传输中断，{all} 字节中只收到 {n} 字节",
    ),
    (r"it cannot be decoded", "无法解码"),
    (r"(?P<host>[^\s:]+): the name has no address", "{host}：域名没有地址"),
    (r"(?P<host>[^\s:]+): no address", "{host}：没有地址"),
    (r"(?P<host>[^\s:]+): no answer from the name server", "{host}：域名服务器没有应答"),
    (r"(?P<host>[^\s:]+): no data for (?P<s>\S+) s", "{host}：{s} 秒没有数据"),
    (r"(?P<host>[^\s:]+): not finished within (?P<s>\S+) s", "{host}：{s} 秒内没有完成"),
    (
        r"(?P<host>[^\s:]+): too slow, (?P<n>\d+) bytes in (?P<s>\d+) s",
        "{host}：太慢，{s} 秒只有 {n} 字节",
    ),
    (
        r"EVENT_URLS has no destination (?P<name>.*); it has: (?P<known>.*)",
        "EVENT_URLS 中没有目标 {name}；其中有：{known}",
    ),
    (
        r"(?P<name>.+): each job names its own; give the URL of one instead",
        "{name}：每个任务自有其地址，请填写其中一个网址",
    ),
)
PLACES = (*_LEDGER, *_ARCHIVE, *_PROVIDERS, *_HOSTS)
