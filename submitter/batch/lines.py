"""What the lines of a batch ask for: JSONL or CSV in, submits out. A bad line is a value like any other and stops nothing.

Columns are the arguments of ``Submitter.submit``; any other is a field for the provider. Numbers are those of the file's lines, from 1,
an entry being named after the line it begins in; blank lines are passed over.
"""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from pydantic import ValidationError
from pydantic_core import from_json

from receiver.errors import ConfigurationError
from receiver.jobs.request import DEFAULT_MODEL, JobRequest
from receiver.model import Api, Mode, Provider
from submitter.batch.entry import Entry, Fields, cell

# Bytes of a line: room for a reference picture sent along, which is told at 20 MiB and grows by a third in base64.
LONGEST = 32 * 1024 * 1024
# Characters of a complaint that are kept; a thousand bad lines shall not fill the memory.
_LONGEST_COMPLAINT = 500
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """One submit: ``request`` are the arguments of ``Submitter.submit`` by name, ``key`` names the job for good.

    ``named`` says that the key is the line's own, not made from what it asks for.
    """

    number: int
    key: str
    request: dict[str, Any]
    named: bool = False

    @property
    def needs(self) -> set[Provider | Mode]:
        """Say what must be configured to post it: its provider's key and, for callbacks, our own address."""
        provider = self.request["provider"]
        return {provider} if provider is Provider.OPENAI else {provider, self.request["mode"]}


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot be submitted, and what is wrong with it, column by column; ``key`` if that is what is wrong."""

    number: int
    error: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds for lines that do not say: ``name`` is the batch's, from which their keys are made."""

    name: str
    mode: Mode = Mode.WEBHOOK
    api: Api = Api.DRAW
    model: str | None = None


def read_lines(file: BinaryIO, form: str, defaults: Defaults) -> Iterator[Line | BadLine]:
    """Give the lines of a file of the form ``jsonl`` or ``csv``, one in memory at a time.

    Raise ConfigurationError for a CSV header that cannot be one.
    """
    identical: Counter[bytes] = Counter()
    for number, fields in _jsonl(file) if form == "jsonl" else _csv(file):
        try:
            yield _line(number, _checked(fields), defaults, identical)
        except _BadError as error:
            yield BadLine(number, str(error)[:_LONGEST_COMPLAINT])


class _BadError(Exception):
    """What is wrong with a line."""


def _checked(fields: Fields | _BadError) -> Entry:
    if isinstance(fields, _BadError):
        raise fields
    try:
        return Entry.model_validate(fields)
    except ValidationError as error:
        raise _BadError(_by_column(error)) from None


def _by_column(error: ValidationError) -> str:
    """Say what is wrong, once a column: one that may be of two types complains twice."""
    first: dict[str, str] = {}
    for item in error.errors(include_url=False, include_input=False):
        first.setdefault(
            str(item["loc"][0]) if item["loc"] else "params",
            item["msg"].removeprefix("Value error, "),
        )
    return "; ".join(f"column {column}: {what}" for column, what in first.items())


def _line(number: int, entry: Entry, defaults: Defaults, identical: Counter[bytes]) -> Line:
    model = entry.model or defaults.model
    asked = {
        "prompt": entry.prompt,
        "size": entry.size,
        "variants": entry.variants,
        "images": entry.pictures,
        "params": entry.fields,
    }
    request = {**asked, "model": model or DEFAULT_MODEL, **_way(entry, defaults)}
    try:
        JobRequest.model_validate(request)
        canonical = _canonical(
            {
                **asked,
                "model": model,
                "provider": None if entry.provider == "grsai" else entry.provider,
            }
        )
        key = (
            str(entry.key)
            if entry.key is not None
            else _derived_key(canonical, defaults.name, identical)
        )
    except ValidationError as error:
        raise _BadError(_by_column(error)) from None
    return Line(number, key, request, named=entry.key is not None)


def _way(entry: Entry, defaults: Defaults) -> dict[str, Provider | Mode | Api]:
    """Say whom the job is posted to, and how its result comes."""
    provider = Provider(entry.provider or Provider.GRSAI)
    mode, api = Mode(entry.mode or defaults.mode), Api(entry.api or defaults.api)
    if provider is Provider.GRSAI and mode is Mode.WEBHOOK and api is Api.NEWER:
        raise _BadError("column mode: the newer API has no callbacks; use poll or stream")
    return {"provider": provider, "mode": mode, "api": api}


def _canonical(asked: Fields) -> bytes:
    """Write down what is asked for, the same for every way to say it; how the result comes is no part of it, nor a default of ours."""
    said = {column: value for column, value in asked.items() if value}
    return json.dumps(
        said, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
    ).encode()


def _derived_key(canonical: bytes, name: str, identical: Counter[bytes]) -> str:
    """Name a job by what is asked for; of identical lines each is a job of its own."""
    digest = hashlib.sha256(canonical)
    # Half a digest is told from another as well, and this is what a batch of a million lines holds in memory.
    short = digest.digest()[:16]
    identical[short] += 1
    return f"{name}:{digest.hexdigest()}:{identical[short]}"


# JSONL.


def _jsonl(file: BinaryIO) -> Iterator[tuple[int, Fields | _BadError]]:
    for number, line in enumerate(_physical(file), 1):
        if isinstance(line, _BadError):
            yield number, line
        elif line.strip():
            yield number, _object(line)


def _object(line: str) -> Fields | _BadError:
    try:
        value = from_json(line.rstrip(), allow_inf_nan=False)
    except ValueError as error:
        what, _, column = str(error).rpartition(" at line 1 column ")
        return _BadError(f"column {column}: not JSON: {what}")
    return value if isinstance(value, dict) else _BadError("column 1: not a JSON object")


def _physical(file: BinaryIO) -> Iterator[str | _BadError]:
    """Give the file's lines as text; what cannot be one is a complaint, and the next line is read all the same."""
    start = _BOM
    while line := file.readline(LONGEST + 1):
        if len(line) > LONGEST:
            while line and not line.endswith(b"\n"):
                line = file.readline(LONGEST)
            yield _BadError(
                f"column {LONGEST + 1}: the line is longer than {LONGEST // 1024**2} MiB"
            )
            continue
        line, start = line.removeprefix(start), b""
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            yield _BadError(f"column {error.start + 1}: not UTF-8")


# CSV.


def _csv(file: BinaryIO) -> Iterator[tuple[int, Fields | _BadError]]:
    """Read a header and its rows. A row needs exactly the header's cells: one that lost some would ask for something else, and cost."""
    source = _Counted(_physical(file))
    rows = csv.reader(source, strict=True, skipinitialspace=True)
    header = _header(rows)
    for number, row in _numbered(rows, source):
        if isinstance(row, _BadError):
            yield number, row
        elif len(row) != len(header):
            yield (
                number,
                _BadError(
                    f"column {min(len(row), len(header)) + 1}: the row has {len(row)} cells, the header {len(header)}"
                ),
            )
        else:
            yield (
                number,
                {
                    name: cell(name, text)
                    for name, text in zip(header, row, strict=True)
                    if text.strip()
                },
            )


class _Counted:
    """Lines for the CSV reader, counted. An iterator, not a generator: a complaint raised from it does not end it."""

    def __init__(self, lines: Iterable[str | _BadError]) -> None:
        self.number = 0
        self._lines = iter(lines)

    def __iter__(self) -> "_Counted":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        if isinstance(line, _BadError):
            raise line
        return line


def _numbered(
    rows: Iterator[list[str]], source: _Counted
) -> Iterator[tuple[int, list[str] | _BadError]]:
    while True:
        number = source.number + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except (_BadError, csv.Error) as error:
            upto = (
                f" (read on to line {source.number}: a quote left open?)"
                if source.number > number
                else ""
            )
            yield (
                number,
                _BadError(
                    f"{error}{upto}" if isinstance(error, _BadError) else f"not CSV: {error}{upto}"
                ),
            )
        else:
            if row:
                yield number, row


def _header(rows: Iterator[list[str]]) -> list[str]:
    try:
        header = [name.strip() for name in next(filter(None, rows), [])]
    except (_BadError, csv.Error) as error:
        raise ConfigurationError([f"the CSV header cannot be read: {error}"]) from error
    mistakes = [
        f"the CSV header names {name!r} twice"
        for name, times in Counter(header).items()
        if times > 1
    ]
    if "" in header:
        mistakes = ["the CSV header has a column without a name"]
    if header and "prompt" not in header:
        mistakes.append(f"the CSV header has no column prompt, but {', '.join(header)}")
    if mistakes:
        raise ConfigurationError(mistakes)
    return header


def unpostable(error: ConfigurationError) -> str:
    """Say of a line what keeps it from being posted: a picture's file, most often."""
    return "; ".join(error.mistakes).replace("--image ", "column images: ")
