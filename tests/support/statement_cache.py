"""One cache of compiled statements for all ledgers of the tests' process.

SQLAlchemy keeps one for each engine, and nearly every test makes engines of its own. A fifth of the
processor time of a test with a ledger went into compiling the same statements again.
"""

from collections import defaultdict
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.util import LRUCache

_STATEMENTS = 2000


def share() -> None:
    """Let all engines of a dialect use one cache; the servers of a run are of one version."""
    caches: defaultdict[type, Any] = defaultdict(lambda: LRUCache(_STATEMENTS))
    original = Engine.__init__

    def prepare(engine: Engine, *args: Any, **options: Any) -> None:
        original(engine, *args, **options)
        engine._compiled_cache = caches[type(engine.dialect)]

    Engine.__init__ = prepare  # type: ignore[assignment]  # for the tests only
    # The dialect is a part of the cache's keys.
    DefaultDialect.__eq__ = lambda self, other: type(self) is type(other)  # type: ignore[method-assign]  # as above
    DefaultDialect.__hash__ = lambda self: hash(type(self))  # type: ignore[method-assign]  # as above
