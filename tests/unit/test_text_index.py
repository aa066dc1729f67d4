"""How texts are cut into pieces for the index, and what a search for words needs to find."""

import pytest

from receiver.ledger.text_index import (
    MAX_PIECES,
    _beyond,
    _place,
    _prefix,
    pieces,
    wanted_pieces,
)
from receiver.model import new_ref


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("a is ?!_", []),
        ("Fox", ["fox"]),
        ("owls owls", ["owl", "wls"]),
        ("gpt-4o_mini", ["gpt", "min", "ini"]),
        ("雪狐", ["ue99baa", "ue78b90", "ue99baae78b90"]),
        ("雪fox", ["ue99baa", "fox"]),
    ],
)
def test_words_are_cut_into_pieces(text: str, expected: list[str]) -> None:
    assert pieces(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A Foxtrot in the snow", "xtro"),
        ("A Foxtrot in the snow", "SNOW fox"),
        ("一只站在雪地里的狐狸", "狐狸"),
        ("一只站在雪地里的狐狸", "狐"),
        ("一只站在雪地里的狐狸", "雪地里"),
        ("東京タワーの夜景", "タワー"),
        ("order-2026-0042", "order-2026"),
        ("Straße nach Ürzig", "STRASSE ürz"),
        ("a2雪b", "雪"),
        ("emoji 🦊 fox", "fox"),
    ],
)
def test_a_text_has_all_pieces_of_its_parts(text: str, words: str) -> None:
    wanted = wanted_pieces(words)
    assert wanted
    assert set(wanted) <= set(pieces(text))
    assert all(piece.isascii() and piece.isalnum() for piece in pieces(text))


def test_a_very_long_text_has_a_limited_number_of_pieces() -> None:
    text = " ".join(map(chr, range(0x4E00, 0x4E00 + 20_000)))
    assert len(pieces(text)) == MAX_PIECES


def test_the_place_of_a_ref_keeps_its_order() -> None:
    refs = ["0" * 26, *(new_ref(moment) for moment in (1.0, 1e9, 1.8e9, 2e9)), "7" + "Z" * 25]
    places = [_place(ref) for ref in refs]
    assert places == sorted(set(places))
    assert (places[0], places[-1]) == (0, 2**63 - 1)
    assert [_prefix(place) for place in places] == [ref[:13] for ref in refs]
    assert _beyond(places[2], up=True) > refs[2] > _beyond(places[2], up=False)
