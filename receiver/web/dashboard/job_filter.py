"""Which jobs a page shows: the filter in its URL, which lists, gallery, bulk actions and ZIP share.

Days are whole days in the reader's time zone, which the page's script puts into the form; ``until``
includes its day. A URL that names its zone means the same days for every reader.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

from flask import request

from receiver.jobs.schemas import JobsQuery
from receiver.ledger.queries.job_list import Wanted
from receiver.model import JobState
from receiver.web.dashboard.base import localized, validate_fields, with_query

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
# The fields of a filter; ``day`` stands for ``since`` and ``until`` of the same day.
FIELDS = (
    *("q", "state", "model", "batch", "reason", "metadata", "folder"),
    *("since", "until", "day", "zone"),
)


@dataclass(frozen=True, slots=True)
class JobFilter:
    """The wanted jobs, the ref to continue after, the filter as given, and its mistakes."""

    wanted: Wanted
    after: str
    given: dict[str, str]
    mistakes: list[str]

    def url(self, path: str, **more: object) -> str:
        """Return the URL of a page about the same jobs."""
        return with_query(path, **{**self.given, **more})

    def of_state(self, state: JobState) -> Wanted:
        """Return the wanted jobs that are in this state."""
        return replace(self.wanted, state=state)

    def pictures(self) -> Wanted:
        """Return the wanted jobs that have pictures."""
        return replace(self.wanted, pictures=True)

    def days_around(self) -> list[tuple[str, str]]:
        """Return the days before and after the wanted day, each with the key of its text."""
        with suppress(ValueError, OverflowError):
            middle, step = date.fromisoformat(self.given.get("day", "")), timedelta(1)
            days = ((middle - step, "day_before"), (middle + step, "day_after"))
            return [(day.isoformat(), key) for day, key in days]
        return []

    @property
    def is_filtered(self) -> bool:
        """Whether anything but all jobs is wanted."""
        return any(value for name, value in self.given.items() if name != "zone")


def read_job_filter(values: Mapping[str, str]) -> JobFilter:
    """Return the filter in a URL or a form; one with mistakes finds all jobs."""
    given = {name: text for name in FIELDS if (text := values.get(name, "").strip())}
    zone = zone_of(given.get("zone", ""))
    asked = {name: given[name] for name in FIELDS if name in JobsQuery.model_fields & given.keys()}
    asked |= {name: given["day"] for name in ("since", "until") if "day" in given}
    mistakes = []
    for name in ("since", "until"):
        if "day" in given or _DAY.fullmatch(asked.get(name, "")):
            try:
                asked[name] = _midnight(asked[name], zone, 1 if name == "until" else 0)
            except OverflowError:  # at the ends of the calendar a day restricts nothing
                del asked[name]
            except ValueError:
                mistakes.append(localized("no_such_day", day=asked.pop(name)))
    found, more = validate_fields(JobsQuery, {**asked, "after": values.get("after", "").strip()})
    query = found or JobsQuery()
    return JobFilter(query.wanted(), query.after, given, [*dict.fromkeys(mistakes), *more])


def reader_zone() -> tzinfo:
    """Return the reader's time zone, which the page's script put into a cookie."""
    return zone_of(request.cookies.get("zone", ""))


def zone_of(name: str) -> tzinfo:
    """Return a time zone by its IANA name; UTC if there is none."""
    # KeyError: unknown; ValueError: not a plain name; OSError: a folder of names, as "America".
    with suppress(KeyError, ValueError, OSError):
        return ZoneInfo(name)
    return UTC


def _midnight(day: str, zone: tzinfo, days_later: int) -> str:
    moment = datetime.combine(date.fromisoformat(day) + timedelta(days_later), time(), zone)
    return moment.astimezone(UTC).isoformat()
