"""Lines of a batch that ask for more pictures than one job makes: bad, or split if asked."""

import io
import json

from submitter.batch.lines import BadLine, BatchLine, Defaults, read_lines


def read(text: str, *, split: bool) -> list[BatchLine | BadLine]:
    return list(read_lines(io.BytesIO(text.encode()), "jsonl", Defaults("batch", split=split)))


def good(text: str) -> list[BatchLine]:
    """Return the lines, all of them good, when they are split."""
    return [line for line in read(text, split=True) if isinstance(line, BatchLine)]


def test_a_line_for_more_pictures_than_its_model_makes_is_bad_or_split_if_asked() -> None:
    text = json.dumps({"prompt": "a fox", "model": "nano-banana", "variants": 3, "key": "k"})
    (bad,) = read(text, split=False)
    assert isinstance(bad, BadLine)
    assert bad.error == (
        "column variants: nano-banana makes one picture a job: submit 3 jobs, "
        "which --split does for you"
    )
    assert [(line.number, line.key, line.request["variants"]) for line in good(text)] == [
        (1, f"k ({number} of 3)", None) for number in (1, 2, 3)
    ]


def test_split_lines_without_a_key_have_keys_of_their_own() -> None:
    text = json.dumps({"prompt": "a fox", "model": "veo3", "variants": 2})
    assert len({line.key for line in good(text)}) == 2


def test_a_line_whose_model_makes_them_all_is_not_split() -> None:
    (line,) = good(json.dumps({"prompt": "a fox", "variants": 2}))
    assert line.request["variants"] == 2
