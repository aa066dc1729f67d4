"""What a caller stores with a job: its metadata, and the request in a short form to be shown."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, insert, select

from receiver.ledger.tables import job_metadata, jobs

# Characters of a value of the metadata that is searchable: PostgreSQL limits what an index holds.
MAX_SEARCHABLE = 500
# Characters of params as JSON up to which they are shown as they are.
MAX_SHOWN = 4096
# Characters of a text in longer params, of the JSON of one field, and number of the fields.
_MAX_TEXT, _MAX_FIELD, _MAX_FIELDS = 200, 1000, 50
# Characters of a shortened text that are kept.
_KEPT = 60


def shown_params(params: Mapping[str, object]) -> str | None:
    """Return params as JSON with long texts shortened, such as pictures; None if all are short."""
    if len(_json(params)) <= MAX_SHOWN:
        return None
    shortened = {
        _shorten(name): _fitting(value) for name, value in list(params.items())[:_MAX_FIELDS]
    }
    if more := len(params) - _MAX_FIELDS:
        shortened |= {"…": f"{more} more fields"} if more > 0 else {}
    return _json(shortened)


def _fitting(value: object) -> object:
    short = _shorten(value)
    length = len(_json(short))
    return short if length <= _MAX_FIELD else f"… ({length} characters of JSON)"


def _shorten(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _MAX_TEXT:
        return f"{value[:_KEPT]}… ({len(value)} characters)"
    if isinstance(value, dict):
        return {_shorten(name): _shorten(inner) for name, inner in value.items()}
    return [_shorten(inner) for inner in value] if isinstance(value, list | tuple) else value


def searchable(metadata: Mapping[str, object]) -> dict[str, str]:
    """Return the values by which a job is found: texts as they are, numbers and truth as JSON."""
    found = {
        name: value if isinstance(value, str) else _json(value)
        for name, value in metadata.items()
        if not isinstance(value, dict | list)
    }
    return {name: value for name, value in found.items() if len(value) <= MAX_SEARCHABLE}


def insert_metadata(connection: Connection, metadata: Mapping[str, Mapping[str, object]]) -> None:
    """Make jobs findable by their metadata, given by ref."""
    rows: Sequence[dict[str, str]] = [
        {"ref": ref, "name": name, "value": value}
        for ref, values in metadata.items()
        for name, value in searchable(values).items()
    ]
    if rows:
        connection.execute(insert(job_metadata), rows)


def refs_with_metadata(name: str, value: str | None) -> Select[tuple[str]]:
    """Select the refs of jobs whose metadata has this value, or with None any value.

    An index has them sorted by ref if there is no other condition.
    """
    named = select(job_metadata.c.ref).where(job_metadata.c.name == name)
    return named if value is None else named.where(job_metadata.c.value == value)


def has_metadata(name: str, value: str | None) -> ColumnElement[bool]:
    """Return the same as a condition, which is tested job by job."""
    return refs_with_metadata(name, value).where(job_metadata.c.ref == jobs.c.ref).exists()


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
