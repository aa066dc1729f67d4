"""PRICES: what one picture of a model costs, as the operator says.

``gpt-image-1=0.04,nano-banana*=0.02,*=0.05``: the name of a model, or the beginning of names with a
``*`` behind it. The longest entry that fits a model counts.
"""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal

REMEDY = "write model=price, such as gpt-image-1=0.04,nano-banana*=0.02, with a point in the price"

_PRICE = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?|\.[0-9]{1,9}")
_MODEL = re.compile(r"[^\s*=]{1,200}\*?|\*")


def read_prices(entries: Sequence[str]) -> dict[str, Decimal]:
    """Read the entries of PRICES. Raise ValueError that names the first wrong one."""
    prices: dict[str, Decimal] = {}
    for entry in entries:
        model, equals, price = (part.strip() for part in entry.rpartition("="))
        if not equals:
            raise ValueError(f"{entry!r} has no =; {REMEDY}")
        if not _MODEL.fullmatch(model):
            raise ValueError(f"{entry!r} names no model; {REMEDY}")
        if not _PRICE.fullmatch(price):
            raise ValueError(f"{price!r} is not a price of {model}; {REMEDY}")
        if model in prices:
            raise ValueError(f"{model} has two prices; keep one")
        prices[model] = Decimal(price)
    return prices


def price_of(prices: Mapping[str, Decimal], model: str) -> Decimal | None:
    """Return the price of one picture of a model; None if it has none."""
    fitting = [name for name in prices if _fits(name, model)]
    # An exact name before a beginning of the same length.
    best = max(fitting, key=lambda name: (not name.endswith("*"), len(name)), default=None)
    return None if best is None else prices[best]


def _fits(name: str, model: str) -> bool:
    return model.startswith(name[:-1]) if name.endswith("*") else model == name
