"""How much one job may store: the holder of one ticket must not fill the archive."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Lock

from receiver.errors import TooLargeError
from receiver.ledger.rows import Asset

# Called with the number of bytes each time some arrive; raises TooLargeError.
Count = Callable[[int], None]


@dataclass
class _Job:
    """A job of which files are being archived; sizes in bytes."""

    downloads: int = 0
    # Protects ``stored`` and ``received``. Each job has its own, because it is locked while the
    # ledger is read.
    lock: Lock = field(default_factory=Lock)
    stored: int | None = None  # archived or in the quarantine when the first of them began
    received: int = 0  # since then

    def begin(self, read_stored: Callable[[], int]) -> None:
        """Read what is stored, for the first file only."""
        with self.lock:
            if self.stored is None:
                self.stored = read_stored()

    def add(self, size: int) -> int:
        """Count received bytes; return how many there are, with the stored ones."""
        with self.lock:
            self.received += size
            return (self.stored or 0) + self.received


class JobLimits:
    """The limits of one job: files, and bytes archived or in the quarantine. Threads share it.

    ``stored`` returns how many bytes the archive has of a job. Worker processes that archive files
    of one job at the same time may exceed the limit by those.
    """

    def __init__(self, stored: Callable[[str], int], *, max_files: int, max_bytes: int) -> None:
        self._stored = stored
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._lock = Lock()
        self._jobs: dict[str, _Job] = {}

    @contextmanager
    def archiving(self, asset: Asset) -> Iterator[Count]:
        """Yield what counts the bytes of an asset that is downloaded and stored meanwhile.

        Raise TooLargeError if the job has too many files.
        """
        if asset.idx >= self._max_files:
            raise TooLargeError(
                f"result {asset.idx + 1} of a job that may have {self._max_files} (JOB_MAX_FILES): "
                f"raise it, then `receiver retry {asset.ref}`"
            )
        # A file that it has in the quarantine is replaced.
        spare = (asset.rejected_size or 0) if asset.quarantined_at is not None else 0
        job, mine = self._job(asset.ref), 0

        def count(size: int) -> None:
            nonlocal mine
            mine += size
            if job.add(size) > self._max_bytes + spare:
                raise TooLargeError(
                    f"its job would store more than {self._max_bytes} bytes (JOB_MAX_BYTES), "
                    f"rejected files included: raise it, then `receiver retry {asset.ref}`"
                )

        try:
            # A file that ends meanwhile is counted once, in the ledger or here: this job has an
            # entry from before the ledger is read until its last file has ended.
            job.begin(partial(self._stored, asset.ref))
            yield count
        except BaseException:
            job.add(-mine)
            raise
        finally:
            self._end(asset.ref, job)

    def _job(self, ref: str) -> _Job:
        with self._lock:
            job = self._jobs.setdefault(ref, _Job())
            job.downloads += 1
            return job

    def _end(self, ref: str, job: _Job) -> None:
        with self._lock:
            job.downloads -= 1
            if not job.downloads:
                del self._jobs[ref]
