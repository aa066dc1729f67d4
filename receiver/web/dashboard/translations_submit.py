"""The texts of the form for a new job, and of the list of keys."""

SUBMIT_TEXTS = {
    "prompt": ("Prompt", "提示词"),
    "provider_help": (
        "Those whose API keys are set. Each has models and parameters of its own.",
        "已设置 API 密钥的服务商；各有自己的模型与参数。",
    ),
    "size_ratio": ("Size", "尺寸"),
    "size_help": (
        "A ratio such as 3:2, pixels such as 1024x1024, or 1K, 2K, 4K",
        "比例如 3:2，像素如 1024x1024，或 1K、2K、4K",
    ),
    "variants": ("Number of pictures", "图片数量"),
    "mode": ("How the result is received", "结果方式"),
    "mode_webhook": ("the provider sends a callback", "服务商回调"),
    "mode_poll": ("we poll the provider", "主动询问"),
    "mode_stream": ("we read a stream", "监听流"),
    "api": ("GRSAI's API", "GRSAI 接口"),
    "api_draw": ("the older one, with callbacks", "旧版接口，支持回调"),
    "api_newer": ("the newer one, without callbacks", "新版接口，不支持回调"),
    "images": ("Reference pictures", "参考图"),
    "images_help": (
        "URLs of pictures, one on each line; chosen files are added as data URLs.",
        "图片网址，每行一个；选择的文件会以 data 网址加入。",
    ),
    "choose_files": ("Choose files …", "选择文件…"),
    "params": ("Other parameters", "其他参数"),
    "params_help": (
        "A JSON object for the provider; it overrides the fields above.",
        "发给服务商的 JSON 对象；优先于上面的字段。",
    ),
    "params_are_json": (
        "Other parameters: write a JSON object, as in {example}",
        "其他参数：请写一个 JSON 对象，例如 {example}",
    ),
    "metadata": ("Metadata", "元数据"),
    "metadata_help": (
        'A JSON object of your own to find the job by, such as {"order": 7}',
        '用于查找任务的自定义 JSON 对象，例如 {"order": 7}',
    ),
    "metadata_are_json": (
        "Metadata: write a JSON object, as in {example}",
        "元数据：请写一个 JSON 对象，例如 {example}",
    ),
    "own_key": ("Your key for the job", "自定义任务键"),
    "own_key_help": (
        "A key belongs to one job: submitted again, it costs nothing.",
        "每个键只用于一个任务：重复提交不会再次付费。",
    ),
    "more_fields": (
        "More: your key, batch, metadata, folder, webhook",
        "更多：自定义任务键、批次、元数据、文件夹、webhook",
    ),
    "folder_help": (
        "A folder of the archive for the pictures, such as shop/summer",
        "图片在归档中的文件夹，例如 shop/summer",
    ),
    "own_webhook": ("Webhook for this job's events", "接收此任务事件的 webhook"),
    "own_webhook_help": (
        "An https URL that gets the events of this job, signed with EVENT_SECRET.",
        "接收此任务事件的 https 网址；事件以 EVENT_SECRET 签名。",
    ),
    "submit": ("Submit the job", "提交任务"),
    "submit_costs": ("This costs credits at the provider.", "此操作会消耗服务商积分。"),
    # The keyboard.
    "keys": ("Keyboard", "键盘"),
    "key_search": ("Search", "搜索"),
    "key_down": ("Next in the list", "列表中的下一个"),
    "key_up": ("Previous in the list", "列表中的上一个"),
    "key_open": ("Open it", "打开"),
    "key_arrows": ("Previous or next picture", "上一张或下一张图片"),
    "key_zoom": ("Zoom a picture", "缩放图片"),
    "key_back": ("Back to the list, or close", "返回列表或关闭"),
    "key_help": ("This list", "本列表"),
    "close": ("Close", "关闭"),
}
