"""``submitter batch --output``: the pictures of each job are saved as soon as it ends."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from receiver.archive.saving import file_name, make_folder
from receiver.errors import ReceiverError
from receiver.jobs.job_object import JobView
from submitter.job import Job


class Output:
    """Saves pictures in a folder; ``jobs`` returns jobs by ref, ``say`` prints a message.

    Saving a job again changes nothing, so a batch that is run again saves what is missing.
    """

    def __init__(
        self,
        folder: Path,
        jobs: Callable[[Sequence[str]], dict[str, Job]],
        say: Callable[[str], None],
        *,
        threads: int,
    ) -> None:
        self._folder = folder
        self._jobs = jobs
        self._say = say
        self._pool = ThreadPoolExecutor(threads, "batch-output")
        self._failures: list[str] = []  # append is atomic, += 1 is not

    @property
    def failures(self) -> int:
        """How many pictures could not be saved."""
        return len(self._failures)

    def begin(self, ref: str) -> None:
        """Begin to save the pictures of a job that has ended."""
        self._pool.submit(self._save, ref)

    def paths(self, job: JobView) -> list[str]:
        """Return where the pictures of a job are."""
        names = [file_name(job.ref, asset.key) for asset in job.assets if asset.key]
        return [str(self._folder / name) for name in names if (self._folder / name).is_file()]

    def finish(self, *, at_once: bool = False) -> None:
        """Wait until everything is saved, or with ``at_once`` until what has begun is."""
        self._pool.shutdown(cancel_futures=at_once)

    def _save(self, ref: str) -> None:
        try:
            assets = self._jobs([ref])[ref].assets
        except ReceiverError as error:
            self._report(ref, error)
            return
        for asset in assets:
            try:
                if asset.key is not None:
                    asset.save(self._folder)
            except ReceiverError as error:
                self._report(ref, error)

    def _report(self, ref: str, error: ReceiverError) -> None:
        self._failures.append(ref)
        self._say(f"{ref} not saved: {error}")


def folder_problem(path: str | None) -> list[str]:
    """Return why no pictures can be saved in this folder, which is made if it is missing."""
    try:
        if path is not None:
            make_folder(Path(path))
    except ReceiverError as error:
        return [f"--output: {error}"]
    return []
