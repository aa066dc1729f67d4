"""Claims of assets, except those of jobs and hosts that hold their share of the threads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Integer,
    String,
    Update,
    bindparam,
    func,
    literal_column,
    select,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from receiver.ledger import claims
from receiver.ledger.claims import Claimed
from receiver.ledger.database import Database
from receiver.ledger.rows import Asset, asset_of
from receiver.ledger.tables import assets

# An asset with at least this many attempts comes after all that have had fewer.
SEVERAL = 3
_ANY = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Avoided:
    """Jobs (by ref) and hosts (by ``netloc``) whose assets are claimed last."""

    refs: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        """Return whether any job or host is avoided."""
        return bool(self.refs or self.hosts)

    def includes(self, asset: Asset) -> bool:
        """Return whether this asset is avoided."""
        return asset.ref in self.refs or netloc(asset.url) in self.hosts

    def parameters(self) -> dict[str, object]:
        """Return the parameters of the statements."""
        return {"refs": sorted(self.refs), "hosts": sorted(self.hosts)}


class FairClaims:
    """The transactions that claim assets fairly. ``now`` returns seconds since the epoch."""

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self._database = database
        self._now = now

    def claim(
        self, limit: int, *, retries: int, avoided: Sequence[Avoided], by_deadline: bool = False
    ) -> list[Claimed[Asset]]:
        """Claim up to ``limit`` due assets, at most ``retries`` that were tried before.

        The first claim leaves out the first entry of ``avoided``, the next claim the next entry,
        and so on. The last claim leaves out nothing. In each, assets with few attempts come first,
        unless it is ``by_deadline``; then those with the nearest deadline.
        """
        steps = [
            (whom, below)
            for whom in (*filter(None, dict.fromkeys(avoided)), Avoided())
            for below in ([_ANY] if by_deadline else [SEVERAL, _ANY])
        ]

        def work(connection: Connection) -> list[Claimed[Asset]]:
            found: list[Claimed[Asset]] = []
            for whom, below in steps:
                wanted = limit - len(found)
                allowed = retries - sum(one.row.attempts > 1 for one in found)
                found += self._claim(connection, min(wanted, allowed), below, whom)
                if allowed < wanted:
                    found += self._claim(connection, limit - len(found), 1, whom)
            return found

        return self._database.write(work)

    def _claim(
        self, connection: Connection, limit: int, below: int, avoided: Avoided
    ) -> list[Claimed[Asset]]:
        """Claim assets that have had fewer attempts than ``below``."""
        if limit <= 0:
            return []
        statement, parameters = (_CLAIM_OTHERS, avoided.parameters()) if avoided else (_CLAIM, {})
        rows = claims.claim_rows(
            connection, statement, self._now(), limit, below=below, **parameters
        )
        found = [Claimed(asset_of(row), row.claim) for row in rows]
        return sorted(found, key=lambda one: (one.row.expires_at, one.row.ref, one.row.idx))

    def count_due(self, avoided: Avoided, most: int) -> int:
        """Return how many due assets are not avoided; counting ends at ``most``."""
        parameters = {"now": self._now(), "limit": most, **avoided.parameters()}

        def count(connection: Connection) -> int:
            return int(connection.execute(_COUNT, parameters).scalar_one())

        return self._database.read(count)


def netloc(url: str) -> str:
    """Return the host of a URL, with its port if it has one; "" if it has none."""
    parts = url.translate(_ENDS).lower().split("/")
    return parts[2] if len(parts) > 2 else ""  # noqa: PLR2004 - after //


_ENDS = str.maketrans("?#", "//")


class _Netloc(FunctionElement[str]):
    """SQL for ``netloc``."""

    type = String()
    inherit_cache = True


@compiles(_Netloc)
def _netloc(element: _Netloc, compiler: Any, **options: Any) -> str:
    url = compiler.process(element.clauses, **options)
    return f"split_part(lower(translate({url}, '?#', '//')), '/', 3)"


@compiles(_Netloc, "sqlite")
def _netloc_sqlite(element: _Netloc, compiler: Any, **options: Any) -> str:
    url = compiler.process(element.clauses, **options)
    cut = f"lower(replace(replace({url}, '?', '/'), '#', '/'))"
    rest = f"substr({cut}, instr({cut} || '//', '//') + 2)"
    return f"substr({rest}, 1, instr({rest} || '/', '/') - 1)"


def _is_other() -> Sequence[ColumnElement[bool]]:
    return (
        assets.c.ref.not_in(bindparam("refs", expanding=True)),
        _Netloc(assets.c.url).not_in(bindparam("hosts", expanding=True)),
    )


def _statement(*wanted: ColumnElement[bool]) -> Update:
    is_no_suspect = claims.suspected(assets, suspects=False)
    few = assets.c.attempts < bindparam("below", type_=Integer)
    return claims.claim_statement(assets, assets.c.expires_at, is_no_suspect, few, *wanted)


_CLAIM, _CLAIM_OTHERS = _statement(), _statement(*_is_other())
_DUE_OTHERS = (
    select(literal_column("1"))
    .select_from(assets)
    .where(assets.c.due_at <= bindparam("now", type_=Double), *_is_other())
    .limit(bindparam("limit", type_=Integer))
    .subquery()
)
_COUNT = select(func.count()).select_from(_DUE_OTHERS)
