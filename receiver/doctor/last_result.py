"""The result of the last call of our own callback, saved in DATA_DIR.

A submit that wants a callback reads it.
"""

import json
import os
import time
from contextlib import suppress
from pathlib import Path

# Seconds for which a saved failure counts; later it has probably been repaired.
COUNTS_FOR = 86400.0
_NAME = "doctor.json"


def keep(folder: Path, public_url: str, failure: str) -> None:
    """Save the result of a call through ``public_url``: a failure, or "" for success.

    If the disk cannot be written, other checks report it.
    """
    draft = folder / f".{_NAME}.{os.getpid()}"
    with suppress(OSError):
        draft.write_text(
            json.dumps({"public_url": public_url, "at": time.time(), "failure": failure}) + "\n",
            encoding="utf-8",
        )
        draft.replace(folder / _NAME)


def failure(folder: Path, public_url: str | None) -> str:
    """Return why callbacks to ``public_url`` will fail, or "" if no failure is known."""
    try:
        kept = json.loads((folder / _NAME).read_text(encoding="utf-8"))
        age = time.time() - float(kept["at"])
        return (
            str(kept["failure"])
            if kept["public_url"] == public_url and 0 <= age < COUNTS_FOR
            else ""
        )
    except (OSError, ValueError, KeyError, TypeError):
        return ""
