"""Result files and their URLs.

A file is made when it is first needed, kept on disk up to a limit, and made again after that. A URL
is ``/file/<32 hex>.<extension>``, needs no key and expires; reading a result after that may give a
new URL for the same bytes.
"""

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from submitter.sandbox.pictures import CONTENT_TYPES, EXTENSIONS, Format, picture
from submitter.sandbox.script import FileFault

# More drawings in parallel would not be faster and need memory, 50 MB for a 4K picture.
_DRAWING_AT_ONCE = 2


@dataclass(eq=False)
class ResultFile:
    """One result of one task; ``sha256`` and ``size`` (bytes) are set when the file is made."""

    seed: str  # the task's id and the index; it determines the bytes
    index: int
    form: Format
    width: int
    height: int
    wanted_size: int
    script: FileFault
    refresh: bool
    lifetime: float | None = None  # of its URLs; None: that of the sandbox
    sha256: str | None = None
    size: int | None = None
    gets: int = 0
    downloads: int = 0
    names: list[str] = field(default_factory=list)
    expires_at: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def content_type(self) -> str:
        """The Content-Type of the bytes."""
        return CONTENT_TYPES[self.form]


class Files:
    """All result files, in ``folder``; at most ``keep_bytes`` of them stay on disk."""

    def __init__(
        self, folder: Path, url: str, lifetime: float, keep_bytes: int, looks: int | None
    ) -> None:
        self._folder, self._url, self._lifetime = folder, url, lifetime
        self._keep_bytes, self._looks = keep_bytes, looks
        self._named: dict[str, tuple[ResultFile, float]] = {}
        self._on_disk: OrderedDict[str, int] = OrderedDict()
        self._bytes_on_disk = 0
        self._drawing = threading.Semaphore(_DRAWING_AT_ONCE)
        self._lock = threading.Lock()

    def url(self, file: ResultFile) -> str:
        """Return the newest URL, or a new one if that has expired and the script allows it."""
        with file.lock:
            if not file.names or (file.refresh and self.has_expired(file.expires_at)):
                self._issue(file)
        return self.last_url(file) or ""

    def last_url(self, file: ResultFile) -> str | None:
        """Return the newest URL, expired or not; None if there is none yet."""
        return f"{self._url}/file/{file.names[-1]}.{EXTENSIONS[file.form]}" if file.names else None

    @staticmethod
    def has_expired(expires_at: float) -> bool:
        """Return whether a URL has expired."""
        return expires_at <= time.time()

    def _issue(self, file: ResultFile) -> None:
        name = secrets.token_hex(16)
        file.names.append(name)
        usual = self._lifetime if file.lifetime is None else file.lifetime
        lifetime = usual if file.script.lifetime is None else file.script.lifetime
        dead = file.script.mode == "expired" and file.script.applies_to(len(file.names))
        file.expires_at = 0.0 if dead else time.time() + lifetime
        with self._lock:
            self._named[name] = file, file.expires_at

    def find(self, name: str) -> tuple[ResultFile, float] | None:
        """Return the file with this URL name (32 hex digits) and when the URL expires, or None."""
        with self._lock:
            return self._named.get(name)

    def open(self, file: ResultFile) -> BinaryIO:
        """Open the file for reading; make it first, with sha256 and size, if it is not on disk."""
        path = self._folder / _name_on_disk(file)
        with file.lock:
            try:
                opened = path.open("rb")
            except FileNotFoundError:
                path.write_bytes(self._make(file))
                opened = path.open("rb")
        self._evict(path.name, file.size or 0)
        return opened

    def _make(self, file: ResultFile) -> bytes:
        look = None if self._looks is None else f"look {int(_name_on_disk(file), 16) % self._looks}"
        with self._drawing:
            data = picture(file.seed, file.form, file.width, file.height, file.wanted_size, look)
        file.sha256, file.size = hashlib.sha256(data).hexdigest(), len(data)
        return data

    def _evict(self, name: str, size: int) -> None:
        """Mark the file as just used and delete the least recently used ones above the limit.

        An open file can still be read after it was deleted.
        """
        with self._lock:
            self._bytes_on_disk += size - self._on_disk.get(name, 0)
            self._on_disk[name] = size
            self._on_disk.move_to_end(name)
            while self._bytes_on_disk > self._keep_bytes and len(self._on_disk) > 1:
                gone, freed = self._on_disk.popitem(last=False)
                self._bytes_on_disk -= freed
                (self._folder / gone).unlink(missing_ok=True)

    def forget(self, files: Iterable[ResultFile]) -> None:
        """Delete the files of forgotten tasks and their URLs."""
        for file in files:
            with self._lock:
                for name in file.names:
                    self._named.pop(name, None)
                gone = _name_on_disk(file)
                self._bytes_on_disk -= self._on_disk.pop(gone, 0)
                (self._folder / gone).unlink(missing_ok=True)


def _name_on_disk(file: ResultFile) -> str:
    return hashlib.sha256(file.seed.encode()).hexdigest()
