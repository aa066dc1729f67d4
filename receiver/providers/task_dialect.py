"""What the dialects of fal, Replicate, BFL and kie.ai share: refusals and defaults."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from hmac import compare_digest
from typing import Any, ClassVar

from receiver.errors import AnswerLostError, UnreadableError
from receiver.model import Api, Mode, Submission
from receiver.providers.dialect import Account, Head, Request, Task
from receiver.providers.json_answers import (
    document,
    identifier,
    picture,
    pixels,
    polled,
    ratio,
)

# Seconds by which the time in a signed callback may differ from ours.
TOLERANCE = 300


class TaskDialect(ABC):
    """A provider with one API: a task is posted; its end comes by a callback or a poll."""

    title: ClassVar[str]  # as people know it
    base_setting: ClassVar[str]  # the setting of its address
    example: ClassVar[str]  # of a model
    sizes: ClassVar[str]  # what --size may be, for the texts of errors
    image_param: ClassVar[str]  # the field that most models have for a reference picture
    hosts: ClassVar[tuple[str, ...]]  # our key may be sent to these, and to hosts below them
    url_lifetime: ClassVar[float | None] = None
    signs_bodies = True
    has_job_secrets = False

    def mistakes(self, submission: Submission) -> list[str]:
        """Return the parts of a request that this provider cannot do, each with the remedy."""
        if submission.mode is Mode.STREAM:
            return [f"--mode stream: {self.title} has no streams; use --mode webhook or poll"]
        return []

    def size_params(self, model: str, api: Api, size: str) -> dict[str, object]:
        """Return the fields for pixels or a ratio."""
        if (sides := pixels(size)) and (fields := self.pixel_params(*sides)):
            return fields
        if found := ratio(size):
            return {"aspect_ratio": found}
        raise ValueError(f"{self.title} has no size {size}: give {self.sizes}")

    def pixel_params(self, width: int, height: int) -> dict[str, object]:
        """Return the fields for pixels; none: only ratios can be asked for."""
        return {"width": width, "height": height}

    def count_params(self, model: str, api: Api, pictures: int) -> dict[str, object]:
        """Refuse several pictures: a task makes one."""
        if pictures == 1:
            return {}
        raise ValueError(
            f"{model} at {self.title} makes one picture a job: submit {pictures} jobs, "
            "which --split does for you"
        )

    def reference_params(
        self, model: str, api: Api, pictures: tuple[str, ...]
    ) -> dict[str, object]:
        """Refuse reference pictures: each model has another field for them."""
        if not pictures:
            return {}
        raise ValueError(
            f"the field for reference pictures depends on the model at {self.title}: "
            f"give it as a param, for {model} perhaps {self.image_param}"
        )

    def accepted_id(self, found: dict[str, Any], name: str) -> str:
        """Return the task's id in the answer to a submit; raise AnswerLostError without one."""
        task_id = identifier(found.get(name))
        if task_id is None:
            raise AnswerLostError(f"{self.title}'s answer has no {name}")
        return task_id

    @abstractmethod
    def made(self, found: dict[str, Any]) -> Iterable[object]:
        """Return the results in a report as they stand there: URLs, objects, lists of them."""

    def read_picture(self, body: bytes, url: str) -> str:
        """Return the base64 text of the picture that ``url`` (``delivery:<index>``) names."""
        return picture(self.made(document(body)), url)

    def read_poll(self, account: Account, task: Task, head: Head, body: bytes) -> Request | None:
        """Check that the answer is about the task."""
        polled(head, body, self.base_setting)
        return None

    def download_headers(self, account: Account, url: str) -> Mapping[str, str]:
        """Return none: anyone with the URL of a result can download it."""
        return {}

    def build_keys(self, account: Account) -> Request | None:
        """Return None: keys cannot be fetched."""
        return None

    def read_keys(self, head: Head, body: bytes) -> tuple[str, ...]:
        """Return no keys."""
        raise UnreadableError("keys cannot be fetched")


def is_one_of(signature: str, expected: Iterable[str]) -> bool:
    """Return whether a signature is one of those that our keys make, in constant time each."""
    return any(compare_digest(one.encode(), signature.encode()) for one in expected)


def is_recent(timestamp: str, now: float) -> bool:
    """Return whether a time in seconds since the epoch, as senders write it, is near ``now``.

    Only the plain spelling counts, so that no other text means the same.
    """
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):  # noqa: PLR2004 - digits until the year 33658
        return False
    return str(int(timestamp)) == timestamp and abs(now - int(timestamp)) <= TOLERANCE
