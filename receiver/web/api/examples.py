"""Examples for the OpenAPI document: one for each body and the main answers.

``tests/unit/test_api_reference.py`` validates each by its model.
"""

from collections.abc import Mapping
from typing import Any

REF = "01K0A3B4C5D6E7F8G9HJKMNPQR"
_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_PATH = f"/api/jobs/{REF}/assets/0"
_KEY = f"2026/07/01/{REF}/0.png"

_JOB: dict[str, Any] = {
    "ref": REF,
    "state": "archived",
    "progress": 100,
    "provider": "grsai",
    "provider_id": "14-5f3cf761",
    "model": "gpt-image-1.5",
    "prompt": "a lighthouse at dusk",
    "reason": None,
    "message": "",
    "submitted_at": "2026-07-01T12:00:00.000Z",
    "answered_at": "2026-07-01T12:00:01.000Z",
    "ended_at": "2026-07-01T12:00:31.000Z",
    "finished_at": "2026-07-01T12:00:32.000Z",
    "mode": "webhook",
    "api": "draw",
    "key": "order-4711",
    "batch": None,
    "metadata": {"order": 4711},
    "folder": "",
    "webhook": "https://shop.example (3f2a91c0)",
    "request": {
        "model": "gpt-image-1.5",
        "prompt": "a lighthouse at dusk",
        "params": {"size": "3:2"},
    },
    "next": None,
    "assets": [
        {
            "index": 0,
            "state": "archived",
            "key": _KEY,
            "url": _PATH,
            "public_url": None,
            "sha256": _SHA256,
            "size": 1234567,
            "content_type": "image/png",
            "width": 1536,
            "height": 1024,
            "error": "",
            "attempts": 0,
            "expires_at": "2026-07-01T14:00:31.000Z",
            "finished_at": "2026-07-01T12:00:32.000Z",
            "accepted_at": None,
            "rejected": None,
            "defect": "",
            "marks": [],
            "doubt": "",
        }
    ],
    "requested": None,
    "missing": 0,
}

EXAMPLES: Mapping[str, dict[str, Any]] = {
    "JobView": _JOB,
    "JobList": {"jobs": [_JOB], "next": None},
    "GrsaiRequest": {
        "prompt": "a lighthouse at dusk",
        "model": "gpt-image-1.5",
        "size": "3:2",
        "key": "order-4711",
        "metadata": {"order": 4711},
    },
    "ImagesRequest": {
        "model": "nano-banana",
        "prompt": "a lighthouse at dusk",
        "n": 1,
        "size": "1536x1024",
        "response_format": "url",
    },
    "ImagesView": {
        "created": 1782907232,
        "output_format": "png",
        "size": "1536x1024",
        "jobs": [REF],
        "data": [{"url": f"https://pictures.example.com/files/WyIw.c2ln/{REF}-0.png"}],
    },
    "ImagesErrorView": {
        "error": {
            "message": "size: nano-banana does not take pixels: give a ratio such as 16:9",
            "type": "invalid_request_error",
            "param": "size",
            "code": "invalid_value",
        }
    },
    "LinkView": {
        "url": f"https://pictures.example.com/files/WyIw.c2ln/{REF}-0.png",
        "expires_at": "2026-07-01T12:15:00.000Z",
    },
    "EventList": {
        "events": [
            {
                "id": f"{REF}-0-asset-archived-0",
                "number": 17,
                "type": "asset.archived",
                "timestamp": "2026-07-01T12:00:32.000Z",
                "receiver_version": "0.1.0",
                "data": {"ref": REF, "index": 0, "key": _KEY, "sha256": _SHA256, "link": None},
            }
        ],
        "next": 17,
    },
    "ProblemView": {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": f"there is no job {REF}",
    },
}
