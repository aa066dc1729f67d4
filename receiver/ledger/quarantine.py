"""The quarantine in the ledger: which rejected files are kept, how large they are, the oldest."""

from dataclasses import dataclass
from functools import partial

from sqlalchemy import ColumnElement, Connection, and_, func, not_, select, update

from receiver.ledger.database import Database
from receiver.ledger.jobs import find_job
from receiver.ledger.many_rows import select_each
from receiver.ledger.rows import Asset, asset_of
from receiver.ledger.tables import assets
from receiver.model import AssetState

_KEPT = assets.c.quarantined_at.isnot(None)
_FILE = (assets.c.ref, assets.c.idx, assets.c.rejected_sha256, assets.c.rejected_size)

_STORED_OF = """
    SELECT coalesce(sum(CASE WHEN quarantined_at IS NOT NULL THEN rejected_size ELSE 0 END
        + CASE WHEN state = 'archived' THEN size ELSE 0 END), 0)
    FROM assets WHERE ref {of_refs}
"""


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A rejected file in the quarantine; ``size`` in bytes."""

    ref: str
    idx: int
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Kept:
    """How many files are in the quarantine, and their size in bytes."""

    files: int
    size: int


class QuarantineRecords:
    """Reads and forgets which rejected files are kept. ``Assets`` records them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def total(self) -> Kept:
        """Return what is kept of all jobs."""
        return self._database.read(partial(_total, kept=_KEPT))

    def waiting(self, limit: int) -> list[Asset]:
        """Return the lost assets whose rejected file may be accepted, the newest file first."""
        lost = assets.c.state.in_((AssetState.FAILED, AssetState.EXPIRED))
        query = select(assets).where(_KEPT, lost).order_by(assets.c.quarantined_at.desc())
        return self._database.read(
            lambda connection: [asset_of(row) for row in connection.execute(query.limit(limit))]
        )

    def total_beside(self, ref: str, idx: int, *, of_job: bool) -> Kept:
        """Return what is kept except this asset's file: of its job, or of all jobs."""
        return self._database.read(partial(_total, kept=_beside(ref, idx, of_job=of_job)))

    def stored_of(self, ref: str) -> int:
        """Return the bytes that the archive has of a job, result files and rejected ones."""
        (((stored,),),) = self._database.read(
            partial(select_each, queries=[_STORED_OF], refs=[ref])
        )
        return int(stored)

    def oldest_beside(self, ref: str, idx: int, limit: int, *, of_job: bool) -> list[KeptFile]:
        """Return the files that were kept first, except this asset's file."""
        query = select(*_FILE).where(_beside(ref, idx, of_job=of_job))
        query = query.order_by(assets.c.quarantined_at).limit(limit)
        found = self._database.read(lambda connection: connection.execute(query).all())
        return [KeptFile(*row) for row in found]

    def forget(self, file: KeptFile) -> None:
        """Record that this file is not kept any more; a newer one of its asset is left alone."""
        own = and_(
            assets.c.ref == file.ref,
            assets.c.idx == file.idx,
            assets.c.rejected_sha256 == file.sha256,
        )

        def work(connection: Connection) -> None:
            find_job(connection, file.ref, locked=True)  # a job is locked before its assets
            connection.execute(update(assets).where(own).values(quarantined_at=None))

        self._database.write(work)


def _beside(ref: str, idx: int, *, of_job: bool) -> ColumnElement[bool]:
    own = and_(assets.c.ref == ref, assets.c.idx == idx)
    others = and_(_KEPT, not_(own))
    return and_(others, assets.c.ref == ref) if of_job else others


def _total(connection: Connection, kept: ColumnElement[bool]) -> Kept:
    size = func.coalesce(func.sum(assets.c.rejected_size), 0)
    files, total = connection.execute(select(func.count(), size).where(kept)).one()
    return Kept(int(files), int(total))
