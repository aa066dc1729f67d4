"""What a key may look like, whatever the store."""

import re

# A name never starts with a dot: no way up or out, and the directory store keeps its own hidden names beside the objects.
_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_KEY = re.compile(rf"{_NAME}(?:/{_NAME})*")
_LONGEST_NAME = 255  # of a file on Linux
_LONGEST_KEY = 500  # S3 allows 1,024 bytes, and a prefix comes before it


def is_key(text: str) -> bool:
    """Say whether every store could hold an object of this name, and none would put it outside of the archive."""
    return (
        bool(_KEY.fullmatch(text))
        and len(text) <= _LONGEST_KEY
        and max(map(len, text.split("/"))) <= _LONGEST_NAME
    )


def checked(key: str) -> str:
    """Return the key, or raise ValueError if it is none."""
    if not is_key(key):
        raise ValueError(f"not a key of the archive: {key!r}")
    return key
