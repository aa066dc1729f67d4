"""The lines of a batch, JSONL or CSV. A bad line is a value (``BadLine``) and stops nothing.

Columns are the arguments of ``Submitter.submit``; any other column is a field for the provider.
Line numbers are those of the file, from 1; an entry over several lines has the number of its first
line. Blank lines are skipped.
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

from receiver.errors import ConfigurationError, mistakes_in
from receiver.jobs.request import DEFAULT_MODEL, MAX_BATCH, JobRequest, takes_variants
from receiver.model import Api, Mode, Provider
from submitter.batch.entry import Entry, Fields, cell
from submitter.submit import split_key

# Bytes of a line: room for a reference picture of 20 MiB, which grows by a third in base64.
LONGEST = 32 * 1024 * 1024
# Characters of an error that are kept, so that a thousand bad lines do not fill the memory.
_LONGEST_ERROR = 500
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One submit: ``request`` are the arguments of ``Submitter.submit`` by name, ``key`` its key.

    ``has_own_key`` is True if the line has a column ``key``, False if the key is derived from the
    request.
    """

    number: int
    key: str
    request: dict[str, Any]
    has_own_key: bool = False

    @property
    def needs(self) -> set[Provider | Mode]:
        """What must be configured to post it: the provider's key and, for callbacks, PUBLIC_URL."""
        provider = self.request["provider"]
        return {provider} if provider is Provider.OPENAI else {provider, self.request["mode"]}


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot be submitted, and its errors; ``key`` if the key is the error."""

    number: int
    error: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Defaults:
    """Values for lines that have none; ``name`` is the batch's and part of every derived key.

    ``split``: a line that asks for more pictures than the model makes in a job becomes several.
    """

    name: str
    mode: Mode = Mode.WEBHOOK
    api: Api = Api.DRAW
    model: str | None = None
    split: bool = False
    folder: str = ""
    webhook: str | None = None


def read_lines(file: BinaryIO, form: str, defaults: Defaults) -> Iterator[BatchLine | BadLine]:
    """Yield the lines of a file in the format ``jsonl`` or ``csv``, one in memory at a time.

    Raise ConfigurationError for a wrong CSV header.
    """
    repeats: Counter[bytes] = Counter()
    for number, fields in _jsonl(file) if form == "jsonl" else _csv(file):
        try:
            for entry in _split(_checked(fields), defaults):
                yield _line(number, entry, defaults, repeats)
        except _LineError as error:
            yield BadLine(number, str(error)[:_LONGEST_ERROR])


class _LineError(Exception):
    """The errors of one line."""


def _checked(fields: Fields | _LineError) -> Entry:
    if isinstance(fields, _LineError):
        raise fields
    try:
        return Entry.model_validate(fields)
    except ValidationError as error:
        raise _LineError(_by_column(error)) from None


def _by_column(error: ValidationError) -> str:
    """Return the first error of each column; pydantic reports one for each type of a union."""
    first: dict[str, str] = {}
    for field, text in mistakes_in(error):
        first.setdefault(field.partition(".")[0] or "params", text)
    return "; ".join(f"column {column}: {what}" for column, what in first.items())


def _split(entry: Entry, defaults: Defaults) -> list[Entry]:
    """Return an entry for each picture if one job cannot make them all, and if that is wanted."""
    model, api = entry.model or defaults.model or DEFAULT_MODEL, Api(entry.api or defaults.api)
    count = entry.variants or 1
    provider = Provider(entry.provider or Provider.GRSAI)
    fits = provider is Provider.OPENAI or takes_variants(provider, model, api, count)
    if not defaults.split or fits:
        return [entry]
    key = None if entry.key is None else str(entry.key)
    return [
        entry.model_copy(update={"variants": None, "key": split_key(key, number, count)})
        for number in range(1, count + 1)
    ]


def _line(number: int, entry: Entry, defaults: Defaults, repeats: Counter[bytes]) -> BatchLine:
    model = entry.model or defaults.model
    asked = {
        "prompt": entry.prompt,
        "size": entry.size,
        "variants": entry.variants,
        "images": entry.pictures,
        "params": entry.fields,
    }
    labels = {
        "batch": entry.batch or defaults.name[:MAX_BATCH].strip() or None,
        "metadata": entry.metadata or {},
        "folder": entry.folder or defaults.folder,
        "webhook": entry.webhook or defaults.webhook,
    }
    request = {**asked, "model": model or DEFAULT_MODEL, **_transport(entry, defaults), **labels}
    provider = None if entry.provider == "grsai" else entry.provider
    try:
        JobRequest.model_validate(request)
        canonical = _canonical({**asked, "model": model, "provider": provider})
        derived = entry.key is None
        key = _derived_key(canonical, defaults.name, repeats) if derived else str(entry.key)
    except ValidationError as error:
        raise _LineError(_by_column(error)) from None
    return BatchLine(number, key, request, has_own_key=not derived)


def _transport(entry: Entry, defaults: Defaults) -> dict[str, Provider | Mode | Api]:
    """Return the provider of the job and how its result arrives."""
    provider = Provider(entry.provider or Provider.GRSAI)
    mode, api = Mode(entry.mode or defaults.mode), Api(entry.api or defaults.api)
    if provider is Provider.GRSAI and mode is Mode.WEBHOOK and api is Api.NEWER:
        raise _LineError("column mode: the newer API has no callbacks; use poll or stream")
    return {"provider": provider, "mode": mode, "api": api}


def _canonical(asked: Fields) -> bytes:
    """Return a request as text; equal requests have equal texts.

    It contains neither how the result arrives nor our defaults.
    """
    given = {column: value for column, value in asked.items() if value}
    return json.dumps(
        given, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
    ).encode()


def _derived_key(canonical: bytes, name: str, repeats: Counter[bytes]) -> str:
    """Return a key derived from a request; identical lines are numbered, so each is one job."""
    digest = hashlib.sha256(canonical)
    # Half a digest is unique enough, and a batch of a million lines holds all of them in memory.
    short = digest.digest()[:16]
    repeats[short] += 1
    return f"{name}:{digest.hexdigest()}:{repeats[short]}"


# JSONL.


def _jsonl(file: BinaryIO) -> Iterator[tuple[int, Fields | _LineError]]:
    for number, line in enumerate(_text_lines(file), 1):
        if isinstance(line, _LineError):
            yield number, line
        elif line.strip():
            yield number, _object(line)


def _object(line: str) -> Fields | _LineError:
    try:
        value = from_json(line.rstrip(), allow_inf_nan=False)
    except ValueError as error:
        what, _, column = str(error).rpartition(" at line 1 column ")
        return _LineError(f"column {column}: not JSON: {what}")
    return value if isinstance(value, dict) else _LineError("column 1: not a JSON object")


def _text_lines(file: BinaryIO) -> Iterator[str | _LineError]:
    """Yield the file's lines as text, and an error for each line that cannot be decoded."""
    start = _BOM
    while line := file.readline(LONGEST + 1):
        if len(line) > LONGEST:
            while line and not line.endswith(b"\n"):
                line = file.readline(LONGEST)
            yield _LineError(
                f"column {LONGEST + 1}: the line is longer than {LONGEST // 1024**2} MiB"
            )
            continue
        line, start = line.removeprefix(start), b""
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            yield _LineError(f"column {error.start + 1}: not UTF-8")


# CSV.


def _csv(file: BinaryIO) -> Iterator[tuple[int, Fields | _LineError]]:
    """Read a header and its rows.

    A row needs as many cells as the header: a row that lost some would ask for something else, and
    would be paid.
    """
    source = _CountingReader(_text_lines(file))
    rows = csv.reader(source, strict=True, skipinitialspace=True)
    header = _header(rows)
    for number, row in _numbered(rows, source):
        if isinstance(row, _LineError):
            yield number, row
        elif len(row) != len(header):
            column = min(len(row), len(header)) + 1
            error = f"column {column}: the row has {len(row)} cells, the header {len(header)}"
            yield number, _LineError(error)
        else:
            cells = zip(header, row, strict=True)
            yield number, {name: cell(name, text) for name, text in cells if text.strip()}


class _CountingReader:
    """Counts the lines that the CSV reader consumes.

    An iterator and not a generator: an exception raised from it does not end it.
    """

    def __init__(self, lines: Iterable[str | _LineError]) -> None:
        self.number = 0
        self._lines = iter(lines)

    def __iter__(self) -> "_CountingReader":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        if isinstance(line, _LineError):
            raise line
        return line


def _numbered(
    rows: Iterator[list[str]], source: _CountingReader
) -> Iterator[tuple[int, list[str] | _LineError]]:
    while True:
        number = source.number + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except (_LineError, csv.Error) as error:
            text = str(error) if isinstance(error, _LineError) else f"not CSV: {error}"
            if source.number > number:
                text += f" (read on to line {source.number}: a quote left open?)"
            yield number, _LineError(text)
        else:
            if row:
                yield number, row


def _header(rows: Iterator[list[str]]) -> list[str]:
    try:
        header = [name.strip() for name in next(filter(None, rows), [])]
    except (_LineError, csv.Error) as error:
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


def submit_error(error: ConfigurationError) -> str:
    """Return the error of a line that could not be posted; most often an image file is missing."""
    return "; ".join(error.mistakes).replace("--image ", "column images: ")
