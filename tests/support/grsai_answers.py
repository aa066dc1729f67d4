"""Answers of GRSAI for the tests of their readers."""

import json

URL = "https://file1.aitohumanize.com/file/0123456789abcdef0123456789abcdef.png"


def raw(body: object) -> bytes:
    """Return a body as bytes: JSON, unless it is bytes already."""
    return body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()


def envelope(data: object, code: object = 0, msg: str = "success") -> dict[str, object]:
    """Return the object in which GRSAI wraps ``data``."""
    return {"code": code, "msg": msg, "data": data}
