"""Events: read from a row of the ledger, and the JSON object that is sent and printed."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from sqlalchemy import Row

from receiver.installation import version
from receiver.ledger.events import ABOUT_THE_JOB
from receiver.model import EventType, UnstoredEventType, new_ref, timestamp
from receiver.telemetry.printable import printable


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    ``number`` is its position in this ledger. ``at`` is in seconds since the epoch. ``index`` is
    the asset's; it is None for events about the job.
    """

    number: int
    type: EventType | UnstoredEventType
    ref: str
    index: int | None
    round: int
    at: float
    payload: dict[str, Any]

    @classmethod
    def of(cls, row: Row[Any]) -> Self:
        """Read a row of ``events``."""
        return cls.read(row._asdict())

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Self:
        """Read a row of ``events`` as a mapping from column to value."""
        index = None if row["idx"] == ABOUT_THE_JOB else row["idx"]
        return cls(
            row["id"],
            EventType(row["type"]),
            row["ref"],
            index,
            row["round"],
            row["created_at"],
            json.loads(row["payload"]),
        )

    @classmethod
    def for_test(cls, now: float) -> Self:
        """Return a test event, with a new id; no job has its ref."""
        ref = new_ref(now)
        text = "This is a test. No job has changed."
        return cls(0, UnstoredEventType.TEST, ref, None, 0, now, {"ref": ref, "message": text})

    @property
    def id(self) -> str:
        """The unique id, the same in every delivery attempt and in a rebuilt ledger."""
        about = "job" if self.index is None else str(self.index)
        return f"{self.ref}-{about}-{self.type.replace('.', '-')}-{self.round}"


class EventSerializer:
    """Serializes events. ``public_url`` is the URL of our API, if receivers can reach it.

    ``job_objects`` returns the objects of these jobs by ref.
    """

    def __init__(
        self,
        archive_url: str,
        public_url: str | None,
        job_objects: Callable[[Sequence[str]], Mapping[str, dict[str, Any]]] = lambda _refs: {},
    ) -> None:
        self._job_objects = job_objects
        self._archive_url = archive_url.rstrip("/")
        self._bucket = urlsplit(archive_url).netloc or None
        self._public_url = public_url

    def object(self, event: Event) -> dict[str, Any]:
        """Return the event as the object that is sent (docs/http.md, "An event")."""
        return self.objects([event])[0]

    def objects(self, events: Sequence[Event]) -> list[dict[str, Any]]:
        """Return a few hundred events as objects, each with its job as it is now."""
        jobs = self._job_objects(sorted({event.ref for event in events}))
        return [self._object(event, jobs.get(event.ref)) for event in events]

    def _object(self, event: Event, job: dict[str, Any] | None) -> dict[str, Any]:
        about = {} if job is None else {"job": job}
        return {
            "id": event.id,
            "number": event.number,
            "type": event.type.value,
            "timestamp": timestamp(event.at),
            "receiver_version": version(),
            "data": {**event.payload, **self._location(event), "link": self._link(event), **about},
        }

    def body(self, event: Event) -> str:
        """Return the object as JSON text; in a later attempt only its job object may differ."""
        text = json.dumps(self.object(event), ensure_ascii=False, separators=(",", ":"))
        return printable(text, as_json=True)

    def _location(self, event: Event) -> dict[str, str | None]:
        """Return bucket and URL of an archived file."""
        key = event.payload.get("key")
        return {"bucket": self._bucket, "url": f"{self._archive_url}/{key}"} if key else {}

    def _link(self, event: Event) -> str | None:
        if self._public_url is None or event.type is UnstoredEventType.TEST:
            return None
        job = f"{self._public_url}/api/jobs/{event.ref}"
        return job if event.index is None else f"{job}/assets/{event.index}"
