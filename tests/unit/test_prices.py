"""PRICES: what is accepted, what a mistake says, and which price counts."""

from decimal import Decimal

import pytest

from receiver.jobs.prices import price_of, read_prices


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("gpt-image-1", "'gpt-image-1' has no ="),
        ("0.04", "'0.04' has no ="),
        ("=0.04", "names no model"),
        ("a b=0.04", "names no model"),
        ("*x=1", "names no model"),
        ("gpt=", "'' is not a price of gpt"),
        ("gpt=free", "'free' is not a price of gpt"),
        ("gpt=-1", "'-1' is not a price"),
        ("gpt=$0.04", "is not a price"),
        ("gpt=1e3", "is not a price"),
        ("gpt=nan", "is not a price"),
        ("gpt=٣", "is not a price"),
        ("gpt=0.0000000001", "is not a price"),
    ],
)
def test_a_wrong_entry_is_named_with_the_remedy(entry: str, said: str) -> None:
    with pytest.raises(ValueError, match="write model=price") as error:
        read_prices([entry])
    assert said in str(error.value)


def test_a_model_has_one_price() -> None:
    with pytest.raises(ValueError, match="gpt has two prices"):
        read_prices(["gpt=1", "gpt=2"])


def test_the_longest_entry_that_fits_counts_and_an_exact_name_most() -> None:
    prices = read_prices(["*=9", "nano*=2", "nano-banana*=1", "nano-banana=.5", "x = 3"])
    models = ("nano-banana", "nano-banana-pro", "nano", "x", "other", "")
    assert [price_of(prices, model) for model in models] == [
        Decimal(price) for price in ("0.5", "1", "2", "3", "9", "9")
    ]
    assert price_of(read_prices(["nano=1"]), "other") is None
