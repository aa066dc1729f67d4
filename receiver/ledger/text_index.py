"""The index in which the texts of jobs are found at once, however many jobs there are.

SQLite keeps it as an FTS5 table, PostgreSQL as a ``tsvector``. Neither finds a part of a word, nor
a word of a text without spaces, as Chinese is written. So words are cut into pieces here, and a
search looks for the jobs that have all pieces of its words; ``containing`` says which really match.
A job is indexed when it is submitted and never again, so callbacks do not touch the index.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Connection, Select, Text, any_, bindparam, select, text

from receiver.ledger.tables import jobs

# Pieces of one job: those of some 10,000 characters. The text after them is not found.
MAX_PIECES = 10_000
_WORD = re.compile(r"[^\W_]+")
# Scripts without spaces between words: kana, Chinese characters, hangul.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af\U00020000-\U0003ffff"
_RUN = re.compile(f"([{_UNSPACED}]+)|[^{_UNSPACED}]+")
# SQLite knows a row by an integer, here the first 13 characters of a ref, which are 63 bits. They
# begin with the time, so their order is that of the refs, and very few jobs have the same.
_PREFIX, _REST = 13, 13
_CROCKFORD, _BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ", "0123456789ABCDEFGHIJKLMNOPQRSTUV"
_DIGITS = str.maketrans(_CROCKFORD, _BASE32)
_COLUMNS = (jobs.c.ref, jobs.c.prompt, jobs.c.model, jobs.c.key, jobs.c.batch)
# The columns in which words are searched, with the ref first.
_TEXTS = (*_COLUMNS, jobs.c.provider_id)
_OF_JOBS: Select[Any] = select(*_COLUMNS).where(jobs.c.ref.in_(bindparam("refs", expanding=True)))

_INSERT = {
    "sqlite": text("INSERT INTO job_words (rowid, pieces) VALUES (:place, :pieces)"),
    "postgresql": text(
        "INSERT INTO job_words (ref, pieces)"
        " VALUES (:ref, array_to_tsvector(string_to_array(:pieces, ' '))) ON CONFLICT DO NOTHING"
    ),
}
_DELETE = {
    # The index has no copy of the pieces, so the caller names those to remove.
    "sqlite": text(
        "INSERT INTO job_words (job_words, rowid, pieces) VALUES ('delete', :place, :pieces)"
    ),
    "postgresql": text("DELETE FROM job_words WHERE ref = :ref"),
}
_FIND = {
    False: text(
        "SELECT rowid FROM job_words WHERE job_words MATCH :pieces"
        " AND rowid BETWEEN :low AND :high ORDER BY rowid DESC LIMIT :most"
    ),
    True: text(
        "SELECT rowid FROM job_words WHERE job_words MATCH :pieces"
        " AND rowid BETWEEN :low AND :high ORDER BY rowid LIMIT :most"
    ),
}
# For a word that most jobs have, PostgreSQL's index returns all jobs, which must then be sorted. So
# the nearest rows are read in their order first, and the index is used only for those beyond. The
# subquery and MATERIALIZED force this plan: the planner expects far too few jobs with several
# pieces.
_NEAR_ROWS = 20_000
# With more jobs than this among the near rows, those beyond are found in the same way later.
_MANY_NEAR = 200
_FIND_NEAR = (
    "SELECT ref FROM (SELECT ref, pieces FROM job_words WHERE ref > :low AND ref < :high"
    " ORDER BY {order} LIMIT :rows) AS near"
    " WHERE pieces @@ CAST(:pieces AS tsquery) ORDER BY {order} LIMIT :most"
)
_LAST_NEAR = (
    "SELECT ref FROM job_words WHERE ref > :low AND ref < :high"
    " ORDER BY {order} OFFSET :rows - 1 LIMIT 1"
)
_FIND_BEYOND = (
    "WITH found AS MATERIALIZED (SELECT ref FROM job_words"
    " WHERE pieces @@ CAST(:pieces AS tsquery) AND ref > :low AND ref < :high)"
    " SELECT ref FROM found ORDER BY {order} LIMIT :most"
)
_WITH_PREFIXES = text(
    "SELECT jobs.ref FROM json_each(:prefixes) AS found"
    " JOIN jobs ON jobs.ref >= found.value AND jobs.ref < found.value || '~'"
)

# The pieces of words.


def pieces(words: str) -> list[str]:
    """Return the pieces of a text, each once, written with ASCII letters and digits.

    They are every three letters of a word, and in scripts without spaces every character and pair.
    """
    found: dict[str, None] = {}
    for run, is_unspaced in _runs(words):
        groups = [*run, *_groups(run, 2)] if is_unspaced else _groups(run, 3)
        found |= dict.fromkeys(map(_ascii, groups))
        if len(found) >= MAX_PIECES:
            break
    return list(found)[:MAX_PIECES]


def wanted_pieces(words: str) -> list[str]:
    """Return the pieces that a text with these words has; none if the words are too short."""
    found: dict[str, None] = {}
    for run, is_unspaced in _runs(words):
        groups = _groups(run, min(len(run), 2) if is_unspaced else 3)
        found |= dict.fromkeys(map(_ascii, groups))
    return list(found)


def _runs(words: str) -> Iterable[tuple[str, bool]]:
    """Yield what words consist of, and whether it is of a script without spaces."""
    for word in _WORD.findall(words.casefold()):
        for run in _RUN.finditer(word):
            yield run[0], run[1] is not None


def _groups(run: str, size: int) -> list[str]:
    return [run[start : start + size] for start in range(len(run) - size + 1)]


def _ascii(piece: str) -> str:
    """Return a piece in ASCII, which both databases leave as it is."""
    return piece if piece.isascii() else f"u{piece.encode().hex()}"


# Write.


def index_jobs(connection: Connection, refs: Sequence[str]) -> None:
    """Make these jobs findable by prompt, model, key and batch."""
    _run(connection, _INSERT, refs)


def forget_jobs(connection: Connection, refs: Sequence[str]) -> None:
    """Remove jobs that are about to be deleted."""
    _run(connection, _DELETE, refs)


def _run(connection: Connection, statements: dict[str, Any], refs: Sequence[str]) -> None:
    is_sqlite = connection.dialect.name == "sqlite"
    values = []
    for ref, *texts in connection.execute(_OF_JOBS, {"refs": list(refs)}):
        # The prompt last: it may be longer than what is indexed.
        prompt, *names = texts
        if found := pieces("\n".join(part for part in (*names, prompt) if part)):
            which = {"place": _place(ref)} if is_sqlite else {"ref": ref}
            values.append({**which, "pieces": " ".join(found)})
    if values:
        connection.execute(statements[connection.dialect.name], values)


# Find.


@dataclass(frozen=True, slots=True)
class Found:
    """The refs of jobs with all pieces, sorted, and where to continue; None at the end."""

    refs: list[str]
    next: str | None


def find(
    connection: Connection, wanted: Sequence[str], low: str, high: str, most: int, *, up: bool
) -> Found:
    """Return up to ``most`` jobs with all these pieces, between the refs ``low`` and ``high``.

    They are sorted by ref: ascending with ``up``, else descending.
    """
    if connection.dialect.name != "sqlite":
        query = " & ".join(f"'{piece}'" for piece in wanted)
        return _find_in_postgresql(connection, query, low, high, most, up=up)
    query = " ".join(f'"{piece}"' for piece in wanted)
    values = {"pieces": query, "most": most, "low": _place(low), "high": _place(high)}
    rows = connection.execute(_FIND[up], values).scalars().all()
    prefixes = json.dumps([_prefix(place) for place in rows])
    refs = connection.execute(_WITH_PREFIXES, {"prefixes": prefixes}).scalars()
    following = _beyond(rows[-1], up=up) if len(rows) == most else None
    return Found(sorted(refs, reverse=not up), following)


def _find_in_postgresql(
    connection: Connection, query: str, low: str, high: str, most: int, *, up: bool
) -> Found:
    """Do the same in PostgreSQL."""
    values = {"pieces": query, "low": low, "high": high, "most": most, "rows": _NEAR_ROWS}

    def run(statement: str) -> list[str]:
        ordered = text(statement.format(order="ref" if up else "ref DESC"))
        return list(connection.execute(ordered, values).scalars())

    near = run(_FIND_NEAR)
    if len(near) == most:
        return Found(near, near[-1])
    last = next(iter(run(_LAST_NEAR)), None)
    if last is None or len(near) > _MANY_NEAR:
        return Found(near, last)
    values |= {"low" if up else "high": last, "most": most - len(near)}
    found = near + run(_FIND_BEYOND)
    return Found(found, found[-1] if len(found) == most else None)


def containing(
    connection: Connection, refs: list[str], conditions: Sequence[ColumnElement[bool]], words: str
) -> list[str]:
    """Return which of these jobs meet the conditions and contain the words, newest first."""
    query = select(*_TEXTS).where(*conditions).order_by(jobs.c.ref.desc())
    if connection.dialect.name == "postgresql":  # it would need long for thousands of values
        query = query.where(jobs.c.ref == any_(bindparam("refs", type_=ARRAY(Text))))
    else:
        query = query.where(jobs.c.ref.in_(bindparam("refs", expanding=True)))
    found = connection.execute(query, {"refs": refs})
    return [texts[0] for texts in found if _contains(texts, words)]


def _contains(texts: Iterable[str | None], words: str) -> bool:
    """Return whether each of the words is a part of one of a job's texts, in any case."""
    folded = "\n".join(part for part in texts if part).casefold()
    return all(word in folded for word in words.casefold().split())


def _place(ref: str) -> int:
    return int(ref[:_PREFIX].translate(_DIGITS), 32)


def _prefix(place: int) -> str:
    return "".join(_CROCKFORD[place >> 5 * (_PREFIX - 1 - at) & 31] for at in range(_PREFIX))


def _beyond(place: int, *, up: bool) -> str:
    """Return the ref from where all jobs of this place have been found."""
    return _prefix(place + 1) + "0" * _REST if up else _prefix(place - 1) + "Z" * _REST
