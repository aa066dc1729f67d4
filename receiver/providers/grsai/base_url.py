"""GRSAI's address as people paste it: with /v1, with a whole endpoint, with http."""

import re
from urllib.parse import urlsplit

# Where the path of an endpoint begins; what stands before it is the base URL.
_ENDPOINT = re.compile(r"/+(?:v1|client/openapi)(?:[/?#].*)?$", re.DOTALL | re.IGNORECASE)
# A host is a name or an IP address, perhaps with a user before it.
_ADDRESS = re.compile(
    r"https?://(?:[^\s/?#@]+@)?(?:[\w-]+(?:\.[\w-]+)*\.?|\[[0-9a-f:.]+\])(?::[0-9]+)?"
    r"(?:/[^\s?#\\]*)?",
    re.IGNORECASE,
)
# The vendor's hosts redirect http to https, and a redirect loses the job.
_VENDOR = re.compile(r"(?:.+\.)?(?:grsaiapi\.com|grsai\.com|grsai\.cn|dakka\.com\.cn)")


def base_url(value: str) -> str:
    """Return the base URL in an address of GRSAI or of a gateway before it.

    Raise ValueError, with the correct value if it is known, for anything else.
    """
    scheme, separator, rest = value.strip("\"'<> \t\r\n").partition("://")
    address = f"{scheme.lower()}{separator}{_ENDPOINT.sub('', rest).rstrip('/')}"
    if not separator or not _is_address(address):
        raise ValueError(
            "must be an http:// or https:// address without ?query, such as "
            + (_with_scheme(value) or "https://grsaiapi.com")
        )
    parts = urlsplit(address)
    if scheme.lower() == "http" and _VENDOR.fullmatch(parts.hostname or ""):
        return f"https://{parts.hostname}{parts.path}"
    return address


def _is_address(address: str) -> bool:
    try:
        return bool(_ADDRESS.fullmatch(address) and urlsplit(address).port != 0)
    except ValueError:  # an unreadable port or bracket
        return False


def _with_scheme(value: str) -> str:
    """Return the address that lacks only https://; "" for anything that may be a secret."""
    host = _ENDPOINT.sub("", value.strip()).rstrip("/")
    return f"https://{host}" if re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+(:\d+)?", host) else ""
