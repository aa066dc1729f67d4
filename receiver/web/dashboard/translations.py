"""The texts of the pages in English and Chinese.

Templates and views name a text by its key; a test checks that every key exists and is used.
"""

from collections.abc import Mapping

from receiver.web.dashboard.translations_gallery import GALLERY_TEXTS
from receiver.web.dashboard.translations_service import SERVICE_TEXTS
from receiver.web.dashboard.translations_submit import SUBMIT_TEXTS

LANGUAGES = {"en": "English", "zh": "中文"}

TEXTS: Mapping[str, tuple[str, str]] = {
    **GALLERY_TEXTS,
    **SERVICE_TEXTS,
    **SUBMIT_TEXTS,
    # Every page.
    "name": ("Paid-for pictures", "付费图片"),
    "skip": ("Skip to the content", "跳到正文"),
    "gallery": ("Gallery", "图库"),
    "jobs": ("Jobs", "任务"),
    "at_risk": ("At risk", "告急"),
    "set_aside": ("Set aside", "搁置"),
    "compare": ("Compare", "对比"),
    "new_job": ("New job", "新任务"),
    "new_like_this": ("New job like this", "照此新建任务"),
    "log_out": ("Log out", "退出"),
    "language": ("Language", "语言"),
    "theme": ("Theme", "配色"),
    "theme_auto": ("system", "跟随系统"),
    "theme_light": ("light", "浅色"),
    "theme_dark": ("dark", "深色"),
    "api_description": ("API description", "API 描述"),
    "pages": ("Pages", "页面"),
    "preferences": ("Preferences", "偏好"),
    "offline": (
        "No connection to the service: this page is not up to date.",
        "与服务的连接已断开：所见内容不是最新的。",
    ),
    "loading": ("Loading …", "加载中…"),
    "copy": ("Copy", "复制"),
    "copied": ("Copied", "已复制"),
    # States.
    "submitting": ("submitting", "提交中"),
    "waiting": ("waiting", "等待中"),
    "archiving": ("archiving", "归档中"),
    "archived": ("archived", "已归档"),
    "failed": ("failed", "失败"),
    "expired": ("expired", "已过期"),
    "pending": ("pending", "待取回"),
    # Reasons of failed jobs.
    "refused": ("the provider refused the job; it costs nothing", "服务商未接受；不收费"),
    "input_moderation": ("the provider's moderation refused the prompt", "提示词未通过服务商审核"),
    "output_moderation": ("the provider's moderation withheld the picture", "图片未通过服务商审核"),
    "violation": ("the provider reported a violation of its rules", "服务商判定违规"),
    "provider_error": ("the provider reported an error", "服务商出错"),
    "no_result": ("the provider reported success without a picture", "报告成功，但没有图片"),
    "bad_asset": (
        "the file is not a picture, or its URL is not allowed",
        "网址给出的不是图片，或不允许下载",
    ),
    # The status bar and the invariants.
    "invariants": ("Invariants", "不变量"),
    "submitted": ("submitted", "已提交"),
    "in_flight": ("in flight", "进行中"),
    "fault_ledger": ("Ledger not usable", "账本不可用"),
    "fault_archive": ("Archive not usable", "归档不可用"),
    "fault_workers": ("No worker", "没有工作进程"),
    "fault_work": ("Work waits", "工作积压"),
    "fault_events": ("Events wait", "事件积压"),
    "fault_accounts": ("Callbacks of an unexpected account", "回调来自未预期的账户"),
    "fault_secrets": ("A secret was removed too early", "密钥移除过早"),
    "fault_disk": ("Little disk space", "磁盘空间不足"),
    "audit_ok": ("adds up", "守恒"),
    "audit_failed": ("does not add up", "不守恒"),
    "audit_pending": ("checking …", "检查中…"),
    "audit_checked": ("Checked {when}", "检查时间：{when}"),
    "invariants_broken": ("Broken invariants", "不成立的不变量"),
    "invariants_hold": ("All invariants of the ledger hold.", "账本的所有不变量均成立。"),
    "audit_difference": ("Jobs that are missing: {count}", "下落不明的任务：{count}"),
    "now": ("Current status", "当前"),
    # The list of jobs.
    "search": ("Search", "搜索"),
    "search_placeholder": (
        "Prompt, model, ref, provider ID or key",
        "提示词、模型、编号、服务商编号或键",
    ),
    "state": ("State", "状态"),
    "any": ("any", "任意"),
    "model": ("Model", "模型"),
    "since": ("From", "起始"),
    "until": ("To", "截止"),
    "whole_days": ("Whole days in the time zone", "按整天计算，时区："),
    "no_such_day": ("{day} is not a day of the calendar", "{day} 不是有效日期"),
    "clear": ("Clear", "清除"),
    "job": ("Job", "任务"),
    "pictures": ("Pictures", "图片"),
    "no_jobs": ("No jobs", "没有任务"),
    "no_jobs_help": ("No job matches the search.", "没有符合条件的任务。"),
    "nothing_found_yet": ("Nothing found yet", "目前没有找到"),
    "searched_back": ("Searched back to {when}.", "已搜索到 {when} 为止的任务。"),
    "search_further": ("Search further back", "继续向前搜索"),
    "retry_matching": ("Retry all matching jobs", "重试所有匹配的任务"),
    "no_prompt": ("(prompt unknown)", "（提示词未知）"),
    "bad_query": ("Invalid search: {mistakes}", "无法理解此查询：{mistakes}"),
    # One job.
    "ref": ("Ref", "编号"),
    "provider": ("Provider", "服务商"),
    "provider_id": ("Provider ID", "服务商编号"),
    "key": ("Key", "键"),
    "finished": ("finished", "结束"),
    "deadline": ("result due by", "结果期限"),
    "progress": ("Progress", "进度"),
    "timeline": ("Timeline", "时间线"),
    "request": ("Request", "请求"),
    "retry": ("Retry", "重试"),
    "retry_help": (
        "Reopens the job and asks the provider for its result again.",
        "重新打开任务，并再次向服务商询问结果。",
    ),
    "try_now": ("Try now", "立即尝试"),
    "try_now_help": (
        "Asks the provider and downloads pending files now, without waiting.",
        "不再等待，立即询问服务商并取回图片。",
    ),
    "download": ("Download", "下载"),
    "archive_key": ("Key in the archive", "归档键"),
    "size": ("Size", "大小"),
    "type": ("Type", "类型"),
    "dimensions": ("Dimensions", "尺寸"),
    "attempts": ("Attempts", "尝试次数"),
    "defect": ("Tolerated defect", "可容忍的缺陷"),
    "doubt": ("Perhaps damaged", "可能已损坏"),
    "marks": ("Marks of origin", "来源标识"),
    "last_error": ("Last error", "最近错误"),
    "url_expires": ("URL expires in", "网址剩余有效期"),
    "url_expired": ("URL expired", "网址已失效"),
    "rejected_file": ("Rejected file", "被拒收的文件"),
    "rejected_files": ("Rejected files", "被拒收的文件"),
    "rejected_files_help": (
        "These files did not pass inspection. Download or accept one on the page of its job.",
        "这些文件未通过检查。可在各任务的页面下载查看并接受。",
    ),
    "accepted_file": ("Accepted by an operator", "由人工接受"),
    "rejected_because": ("Rejected because", "拒收原因"),
    "claimed_type": ("Claimed type", "声称的类型"),
    "accepted": ("Accepted", "接受时间"),
    "accept": ("Accept as the picture", "接受为结果"),
    "accept_help": (
        (
            "This file did not pass inspection. Download it and look at it. "
            "If you accept it, it is archived like any other picture."
        ),
        "此文件未通过检查。请先下载查看；接受后会像其他图片一样归档。",
    ),
    "download_rejected": ("Download the rejected file", "下载被拒收的文件"),
    "rejected_not_kept": ("The file itself is not kept any more.", "文件本身已不再保留。"),
    "notice_accepted": ("The file was accepted.", "文件已接受。"),
    "no_assets": ("No result reported yet.", "尚未收到图片通知。"),
    "delivery": ("delivery", "回报"),
    "raw_body": ("Raw body", "原始内容"),
    "raw_size": ("{size}, SHA-256 {digest}", "{size}，SHA-256 摘要 {digest}"),
    "raw_formatted": (
        "Formatted for reading; the download is as received.",
        "已排版便于阅读；下载的是收到的原文。",
    ),
    "raw_cut": ("Only the first {size} are shown.", "仅显示前 {size}。"),
    "raw_whole": ("Download the raw body", "下载原始内容"),
    "replay": ("Replay", "重放"),
    "replay_help": (
        "Processes this delivery again, for example after a fix.",
        "重新处理此回报，例如在修复之后。",
    ),
    "source_callback": ("callback", "回调"),
    "source_poll": ("poll", "轮询"),
    "source_stream": ("stream", "流"),
    "source_sync": ("response", "应答"),
    "proof_body": ("proved", "内容已验证"),
    "proof_task": ("only the task is proved", "仅任务已验证"),
    "proof_none": ("not proved", "未验证"),
    "verdict_progress": ("job in progress", "任务继续"),
    "verdict_ended": ("decided the job", "决定了任务结果"),
    "verdict_refreshed": ("new URLs", "带来新网址"),
    "verdict_empty": ("success without a picture", "成功但无图片"),
    "verdict_duplicate": ("duplicate", "重复内容"),
    "verdict_late": ("after the end of the job", "结束后才到"),
    "verdict_contradiction": ("contradicts the result", "与已定结果矛盾"),
    "verdict_other_id": ("about another task", "属于另一任务"),
    "verdict_unconfirmed": ("to be confirmed with the provider", "待向服务商核实"),
    "verdict_unreadable": ("unreadable", "无法读取"),
    "event_submitted": ("Submitted", "已提交"),
    "event_attempt": ("Failed attempt to archive picture {index}", "归档第 {index} 张图片失败"),
    "event_asset.archived": ("Picture {index} archived", "第 {index} 张图片已归档"),
    "event_job.archived": ("Job archived", "任务已归档"),
    "event_job.failed": ("Job failed", "任务失败"),
    "event_job.expired": ("Job expired", "任务过期"),
    "event_job.at_risk": ("Job at risk", "任务告急"),
    "notice_retried": ("The job was reopened.", "任务已重新开始。"),
    "notice_replayed": ("The delivery was processed again.", "回报已重新处理。"),
    "notice_resent": ("The event will be delivered again.", "事件将重新发送。"),
    "notice_expedited": ("The pending work is due now.", "正在立即尝试。"),
    "notice_submitted": ("The job was submitted.", "任务已提交。"),
    # At risk, set aside.
    "at_risk_help": (
        (
            "Pictures that are paid for and not archived, and whose URL expires soon. "
            "The worker retries them by itself, the earliest expiry first."
        ),
        "已付费但尚未归档、且网址即将失效的图片。系统会自动重试，最先失效者优先。",
    ),
    "no_at_risk": ("Nothing is at risk", "没有告急的图片"),
    "no_at_risk_help": (
        "Every reported picture is archived, or its URL is valid long enough.",
        "所有图片都已归档，或时间充裕。",
    ),
    "set_aside_help": (
        (
            "What was set aside after repeated failures: jobs that crashed a worker, "
            "unreadable deliveries, events that no destination accepted, and files that did not "
            "pass inspection."
        ),
        (
            "服务多次失败后放弃处理的内容：反复使工作进程崩溃的任务，无法读取的回报，"
            "无人接收的事件，以及未通过检查的文件。"
        ),
    ),
    "no_set_aside": ("Nothing is set aside", "没有搁置的内容"),
    "no_set_aside_help": (
        "All deliveries were readable, no event was set aside, and no job crashed a worker.",
        "所有回报均可读取，没有放弃发送的事件，没有任务使进程崩溃。",
    ),
    "unreadable_deliveries": ("Unreadable deliveries", "无法读取的回报"),
    "unreadable_because": ("Why it cannot be read", "无法读取的原因"),
    "dismiss": ("Dismiss", "忽略"),
    "dismiss_help": (
        "Takes this delivery off the list. It stays stored, and can still be replayed.",
        "从列表中移除此回报；它仍会保留，也可以重放。",
    ),
    "notice_dismissed": ("The delivery was dismissed.", "回报已忽略。"),
    "dismiss_event_help": (
        "Takes this event off the list for good: it is sent nowhere any more.",
        "从列表中永久移除此事件，不再发送。",
    ),
    "notice_event_dismissed": ("The event was dismissed.", "事件已忽略。"),
    "crashed_jobs": ("Jobs that crashed a worker", "使进程崩溃的任务"),
    "replay_all": ("Replay all", "全部重放"),
    "undelivered_events": ("Undelivered events", "未能送达的事件"),
    "resend": ("Send again", "重新发送"),
    "resend_help": (
        "Sends the event again to the destinations that did not accept it.",
        "再次发送给未接收者。",
    ),
    "event": ("event", "事件"),
    # Retry or replay of many.
    "bulk_retry": ("Retry many jobs", "批量重试"),
    "bulk_replay": ("Replay many deliveries", "批量重放"),
    "bulk_jobs": (
        "Matching failed or expired jobs: {count}",
        "匹配的失败或过期任务：{count} 个",
    ),
    "bulk_jobs_at_least": (
        "Matching failed or expired jobs: at least {count}",
        "匹配的失败或过期任务：至少 {count} 个",
    ),
    "bulk_deliveries": ("Unreadable deliveries: {count}", "无法读取的回报：{count} 条"),
    "bulk_deliveries_at_least": (
        "Unreadable deliveries: at least {count}",
        "无法读取的回报：至少 {count} 条",
    ),
    "bulk_help": (
        (
            "They are processed in steps of {step}. Nothing is submitted or paid again: "
            "the provider is only asked for existing results."
        ),
        "每次处理 {step} 个，可随时停止。不会重新提交或付费，只向服务商询问已有结果。",
    ),
    "bulk_done": ("{done} done, {failed} failed.", "已完成 {done} 个，{failed} 个无法处理。"),
    "bulk_running": ("Running …", "继续处理中…"),
    "bulk_finished": ("All were processed.", "已全部处理。"),
    "continue": ("Continue", "继续"),
    "do_it": ("Start", "确认执行"),
    "back": ("Back", "返回"),
    "nothing_to_do": ("There is nothing to do.", "没有可处理的内容。"),
    # Comparison.
    "compare_help": (
        "The {count} newest jobs of this time span.",
        "基于该时段最新的 {count} 个任务。",
    ),
    "compare_all": ("All {count} jobs of this time span.", "基于该时段全部 {count} 个任务。"),
    "last_hour": ("last hour", "最近一小时"),
    "last_day": ("last day", "最近一天"),
    "last_week": ("last week", "最近一周"),
    "last_month": ("last month", "最近一月"),
    "outcomes": ("Outcomes of the jobs", "任务结果"),
    "moderated": ("moderated", "被审核"),
    "to_callback": ("Time to the callback", "回调用时"),
    "to_archive": ("Time to archive", "归档用时"),
    "percentiles": ("50 % and 95 % of the jobs took at most", "50% 与 95% 用时"),
    "statistics": ("Statistics", "数据"),
    "duplicates": ("Duplicates", "重复回报"),
    "losses": ("Losses", "丢失"),
    "url_lifetime": ("URL lifetime", "网址寿命"),
    "least_left": ("Least time left", "最少剩余"),
    "renewed": ("URLs renewed", "网址更新"),
    "no_statistics": ("No jobs in this time span", "该时段没有任务"),
    "no_statistics_help": ("Choose a longer time span.", "请选择更长的时段。"),
    "time_span": ("Time span", "时段"),
    # Login and errors.
    "log_in": ("Log in", "登录"),
    "token": ("Admin token", "管理令牌"),
    "token_help": (
        (
            "The ADMIN_TOKEN of this service. If you did not set one, "
            "receiver serve printed it at its first start; it is in secrets/admin in DATA_DIR."
        ),
        "本服务的 ADMIN_TOKEN。若未设置，见 DATA_DIR 的 secrets/admin。",
    ),
    "token_wrong": ("The token is wrong.", "令牌不正确。"),
    "token_slow": (
        "Too many attempts. Try again in {seconds} seconds.",
        "尝试过于频繁，请 {seconds} 秒后再试。",
    ),
    "cookie_lost": (
        "The browser did not keep the session: open this page by the https address of PUBLIC_URL.",
        "浏览器未保存会话：请通过 PUBLIC_URL 的 https 地址打开本页。",
    ),
    "error_400": ("This request is not understood", "无法理解此请求"),
    "error_400_help": ("Go back, reload the page and try again.", "请返回，刷新页面后重试。"),
    "error_403": ("This form is too old", "表单已失效"),
    "error_403_help": ("Go back, reload the page and try again.", "请返回，刷新页面后重试。"),
    "error_404": ("Page not found", "找不到页面"),
    "error_404_help": (
        "The address is wrong, or it names something unknown.",
        "地址有误，或所指内容不存在。",
    ),
    "error_405": ("Method not allowed", "此地址不接受该请求"),
    "error_405_help": ("Go back to the gallery and try from there.", "请回到图库重试。"),
    "error_409": ("This cannot be done", "无法执行"),
    "error_413": ("The form is too large", "内容过大"),
    "error_413_help": ("A form may have at most {size}.", "表单最多 {size}。"),
    "error_503": ("The service is unavailable now", "服务暂时不可用"),
    "error_503_help": (
        "Nothing that was received is lost. Reload the page in a moment.",
        "已收到的内容不会丢失，请稍后刷新。",
    ),
    "error_500": ("Something went wrong", "出错了"),
    "error_500_help": (
        "This is a bug of the service; its log has the details.",
        "这是服务自身的错误，详情见日志。",
    ),
}


def translate(language: str, key: str, **values: object) -> str:
    """Return a text; ``values`` fill its placeholders."""
    found = TEXTS[key][0 if language == "en" else 1]
    return found.format(**values) if values else found
