"""What the last call of ourselves came to, kept in DATA_DIR for those who are about to ask a provider for callbacks."""

import json
import os
import time
from contextlib import suppress
from pathlib import Path

# Seconds for which a failure counts; much may have been mended since.
COUNTS_FOR = 86400.0
_NAME = "doctor.json"


def keep(folder: Path, public_url: str, failure: str) -> None:
    """Keep what came of a call through ``public_url``; "" where it went well. A disk that takes nothing is told by other checks."""
    draft = folder / f".{_NAME}.{os.getpid()}"
    with suppress(OSError):
        draft.write_text(
            json.dumps({"public_url": public_url, "at": time.time(), "failure": failure}) + "\n",
            encoding="utf-8",
        )
        draft.replace(folder / _NAME)


def failure(folder: Path, public_url: str | None) -> str:
    """Say why callbacks through ``public_url`` would not come, by the last call; "" if nothing is known against it."""
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
