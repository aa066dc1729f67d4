"""The names that ``callbacks`` imports from here; they are defined in ``measurements``."""

from tests.bench.measurements import MS, US, Amount, Line, Round, percentile

__all__ = ["MS", "US", "Amount", "Line", "Round", "percentile"]
