"""When a file may be archived although another download may bring more of it.

A picture may be whole while the end of its file is missing, and some formats do not say where a
file ends. Such a file is downloaded again. It is archived when the same bytes come twice, or, if
its picture is whole, at the last attempt; a file that does not say where it ends then goes to the
quarantine.
"""

from pathlib import Path
from threading import Lock

from receiver.archive.inspect import Picture, inspect
from receiver.errors import FetchError, NotThePictureError, TruncatedError
from receiver.ledger.rows import Asset
from receiver.model import INLINE
from receiver.net.download import Fetched

# After this many attempts a whole picture without its end is archived.
MAX_ATTEMPTS = 10
# Assets whose last file is remembered; after a restart the same bytes must come twice again.
_MAX_REMEMBERED = 1_000


class Unfinished:
    """Remembers files that may lack something.

    ``longest_wait`` is the most seconds between two attempts.
    """

    def __init__(self, longest_wait: float) -> None:
        self._longest_wait = longest_wait
        self._last: dict[tuple[str, int], str] = {}
        self._lock = Lock()  # many threads share this

    def inspect(self, asset: Asset, path: Path, fetched: Fetched, now: float) -> Picture:
        """Inspect a downloaded file.

        Raise FetchError if another download may bring more of it, NotThePictureError if it is not
        the picture.
        """
        is_late = now + self._longest_wait >= asset.expires_at
        picture = _inspect(path, fetched, is_late=is_late)
        missing = picture.unfinished
        if not missing and picture.open_ended and (fetched.open_ended or fetched.cut_short):
            missing = "neither the file nor the server says where it ends"
        if missing and not self._came_twice(asset, fetched):
            why = "; ".join(filter(None, [fetched.cut_short, missing]))
            if not is_late and asset.attempts < MAX_ATTEMPTS:
                raise FetchError(f"perhaps cut short: {why}; it is downloaded once more")
            if not picture.unfinished:
                raise TruncatedError(f"perhaps cut short: {why}")
        self._last.pop((asset.ref, asset.idx), None)
        return picture

    def _came_twice(self, asset: Asset, fetched: Fetched) -> bool:
        """Return whether the bytes are those of the attempt before, or cannot change; note them."""
        key = asset.ref, asset.idx
        with self._lock:
            before = self._last.pop(key, None)
            if len(self._last) >= _MAX_REMEMBERED:
                del self._last[next(iter(self._last))]
            self._last[key] = fetched.sha256
        return before == fetched.sha256 or asset.url.startswith(INLINE)


def _inspect(path: Path, fetched: Fetched, *, is_late: bool) -> Picture:
    """Inspect a file; raise FetchError if it is not a picture because the transfer was cut short.

    If there is no time for another download, it is a bad file like any other, and is kept.
    """
    try:
        return inspect(path)
    except NotThePictureError as error:
        if fetched.cut_short and not is_late:
            raise FetchError(f"{fetched.cut_short}: {error}") from error
        raise
