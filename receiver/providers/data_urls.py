"""Pictures inside a report: ``data:`` URLs, and base64 in a field of its own. No I/O."""

import re
from base64 import b64encode
from urllib.parse import unquote, unquote_to_bytes

from receiver.errors import UnreadableError
from receiver.model import INLINE

_DATA_URL = re.compile(r"data:([^,]{0,200}),", re.IGNORECASE)


def is_data_url(text: str) -> bool:
    """Return whether a text is a ``data:`` URL, which may be megabytes long."""
    return bool(_DATA_URL.match(text))


def location(place: int, address: str) -> str:
    """Return the URL that is stored for the result at this place of a report."""
    return f"{INLINE}{place}" if is_data_url(address) else address


def picture_at(addresses: list[str], url: str) -> str:
    """Return the base64 text of the picture that ``url`` (``delivery:<index>``) names.

    Raise UnreadableError if the report, whose results have these addresses, has no such picture.
    """
    index = url.removeprefix(INLINE)
    if not index.isdecimal() or int(index) >= len(addresses):
        raise UnreadableError(f"the report has no picture {index[:40]!r}")
    address = addresses[int(index)]
    head = _DATA_URL.match(address)
    if head is None:
        raise UnreadableError(f"result {index} of the report has its picture elsewhere")
    content = address[head.end() :]
    if "base64" not in head[1].lower():
        return b64encode(unquote_to_bytes(content)).decode()
    plain = re.sub(r"\s", "", unquote(content) if "%" in content else content)
    plain = plain.rstrip("=").translate(str.maketrans("-_", "+/"))
    return plain + "=" * (-len(plain) % 4)
