"""Lines of a batch: what they ask for, the keys they get, and every way in which one can be bad."""

import hashlib
import io
import json
from collections.abc import Sequence
from typing import Any

import pytest

from receiver.errors import ConfigurationError
from receiver.model import Api, Mode, Provider
from submitter.batch import lines as batch_lines
from submitter.batch.lines import BadLine, BatchLine, Defaults, read_lines

DEFAULTS = Defaults("batch")


def read(
    text: str | bytes, form: str = "jsonl", defaults: Defaults = DEFAULTS
) -> list[BatchLine | BadLine]:
    data = text if isinstance(text, bytes) else text.encode()
    return list(read_lines(io.BytesIO(data), form, defaults))


def only(found: Sequence[BatchLine | BadLine]) -> BatchLine:
    (line,) = found
    assert isinstance(line, BatchLine), line
    return line


def jsonl(**columns: Any) -> BatchLine:
    return only(read(json.dumps(columns)))


def errors(found: Sequence[BatchLine | BadLine]) -> dict[int, str]:
    return {line.number: line.error for line in found if isinstance(line, BadLine)}


def numbers(found: Sequence[BatchLine | BadLine]) -> list[int]:
    """Return the numbers of the good lines."""
    return [line.number for line in found if isinstance(line, BatchLine)]


# What is asked for.


def test_a_prompt_is_enough() -> None:
    assert jsonl(prompt="a fox").request == {
        "prompt": "a fox",
        "model": "gpt-image-1.5",
        "size": None,
        "variants": None,
        "images": [],
        "params": {},
        "provider": Provider.GRSAI,
        "mode": Mode.WEBHOOK,
        "api": Api.DRAW,
        "batch": "batch",
        "metadata": {},
        "folder": "",
        "webhook": None,
    }


def test_every_argument_of_submit_is_a_column_and_any_other_is_for_the_provider() -> None:
    columns = {
        "model": "nano",
        "size": "3:2",
        "variants": 1,
        "images": ["a.png"],
        "mode": "poll",
        "api": "api",
        "batch": "other",
        "metadata": {"order": 4711},
        "folder": "shop/summer",
        "key": "mine",
    }
    line = jsonl(
        prompt="a fox", params={"style": "ink"}, quality="high", seed=7, tags=["a", None], **columns
    )
    assert line.key == "mine"
    asked = columns.keys() - {"key"}
    assert {name: line.request[name] for name in asked} == {name: columns[name] for name in asked}
    assert line.request["params"] == {
        "style": "ink",
        "quality": "high",
        "seed": 7,
        "tags": ["a", None],
    }


def test_what_a_line_does_not_say_the_defaults_do() -> None:
    defaults = Defaults("batch", Mode.POLL, Api.NEWER, "nano-banana")
    silent, saying = read(
        '{"prompt": "a"}\n'
        '{"prompt": "a", "mode": "stream", "api": "draw", "model": "sora-2", "size": null}',
        "jsonl",
        defaults,
    )
    assert isinstance(silent, BatchLine)
    assert isinstance(saying, BatchLine)
    assert [silent.request[name] for name in ("mode", "api", "model")] == [
        Mode.POLL,
        Api.NEWER,
        "nano-banana",
    ]
    assert [saying.request[name] for name in ("mode", "api", "model")] == [
        Mode.STREAM,
        Api.DRAW,
        "sora-2",
    ]


@pytest.mark.parametrize(
    "columns",
    [{"image": "a.png"}, {"image": ["a.png"]}, {"images": "a.png"}, {"images": ["a.png"]}],
)
def test_reference_pictures_are_one_or_several(columns: dict[str, Any]) -> None:
    assert jsonl(prompt="a", **columns).request["images"] == ["a.png"]


def test_a_csv_cell_is_json_where_it_is_json_and_absent_where_it_is_empty() -> None:
    text = (
        "\ufeffprompt, variants,key,images,params,quality,seed,flag,note\r\n"
        '"a fox, in ""snow""\nat night",2,007,"[""a.png"", ""b.png""]","{""style"": ""ink""}",'
        'high,7,true,"[1, oops"\r\n'
        "\r\n"
        "123,,,https://x.test/a.png,,,,,\r\n"
    )
    full, bare = read(text, "csv")
    assert isinstance(full, BatchLine)
    assert isinstance(bare, BatchLine)
    assert (full.number, bare.number) == (2, 5)
    assert (full.request["prompt"], full.request["variants"], full.key) == (
        'a fox, in "snow"\nat night',
        2,
        "007",
    )
    assert full.request["images"] == ["a.png", "b.png"]
    assert full.request["params"] == {
        "style": "ink",
        "quality": "high",
        "seed": 7,
        "flag": True,
        "note": "[1, oops",
    }
    assert (bare.request["prompt"], bare.request["variants"], bare.request["images"]) == (
        "123",
        None,
        ["https://x.test/a.png"],
    )
    assert bare.request["params"] == {}


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("jsonl", ""),
        ("jsonl", "\n \n\r\n"),
        ("csv", ""),
        ("csv", "prompt\n"),
        ("csv", "\nprompt\n\n"),
    ],
)
def test_a_file_without_lines_is_no_error(form: str, text: str) -> None:
    assert read(text, form) == []


# Keys.


def test_a_derived_key_stays_the_same_for_ever() -> None:
    """A batch may be continued by a later release, which must find what this one posted."""
    key = jsonl(prompt="a fox", model="nano", variants=2, quality="high").key
    canonical = '{"model":"nano","params":{"quality":"high"},"prompt":"a fox","variants":2}'
    assert key == f"batch:{hashlib.sha256(canonical.encode()).hexdigest()}:1"


def test_the_same_request_has_the_same_key_however_it_is_written() -> None:
    first = jsonl(prompt="a", model="m", params={"b": 1, "a": 2}, image="x.png")
    assert jsonl(images=["x.png"], a=2, b=1, model="m", prompt="a", size=None).key == first.key
    assert only(read("b,a,images,prompt,model\n1,2,x.png,a,m\n", "csv")).key == first.key


def test_how_the_result_comes_is_no_part_of_the_key_but_the_model_is() -> None:
    key = jsonl(prompt="a", model="m").key
    assert jsonl(prompt="a", model="m", mode="poll", api="api").key == key
    assert only(read('{"prompt": "a"}', defaults=Defaults("batch", model="m"))).key == key
    assert (
        len(
            {
                key,
                jsonl(prompt="a").key,
                jsonl(prompt="a", model="n").key,
                jsonl(prompt="a", model="m", provider="openai").key,
            }
        )
        == 4
    )


def test_identical_lines_are_jobs_of_their_own_and_another_name_is_another_batch() -> None:
    keys = [line.key for line in read('{"prompt": "a"}\n' * 3) if isinstance(line, BatchLine)]
    assert [key.rpartition(":")[2] for key in keys] == ["1", "2", "3"]
    assert len({key.rpartition(":")[0] for key in keys}) == 1
    assert only(read('{"prompt": "a"}', defaults=Defaults("other"))).key not in keys


def test_a_number_is_a_key_too() -> None:
    assert jsonl(prompt="a", key=17).key == "17"


# Bad lines.


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "a"', "column 14: not JSON: EOF"),
        ("{'prompt': 'a'}", "column 2: not JSON"),
        ("hello", "column 1: not JSON"),
        ("[1]", "column 1: not a JSON object"),
        ('"a"', "column 1: not a JSON object"),
        ("[" * 1000, "not JSON: recursion limit"),
        ('{"prompt": NaN}', "column 12: not JSON"),
        ('{"prompt": "\\ud800"}', "not JSON"),
        ("{}", "column prompt: Field required"),
        ('{"prompt": null}', "column prompt: Input should be a valid string"),
        ('{"prompt": ["a"]}', "column prompt: Input should be a valid string"),
        ('{"prompt": " "}', "column prompt: is empty"),
        ('{"prompt": "a\\u0000b"}', "column prompt: has a NUL"),
        ('{"prompt": "%s"}' % ("a" * 100_001), "column prompt: String should have at most 100000"),
        ('{"prompt": "a", "model": 5}', "column model: Input should be a valid string"),
        ('{"prompt": "a", "model": ""}', "column model: is empty"),
        ('{"prompt": "a", "size": 1024}', "column size: Input should be a valid string"),
        (
            '{"prompt": "a", "variants": 0}',
            "column variants: Input should be greater than or equal to 1",
        ),
        (
            '{"prompt": "a", "variants": 33}',
            "column variants: Input should be less than or equal to 32",
        ),
        ('{"prompt": "a", "variants": 1.5}', "column variants: Input should be a valid integer"),
        ('{"prompt": "a", "variants": "2"}', "column variants: Input should be a valid integer"),
        ('{"prompt": "a", "variants": true}', "column variants: Input should be a valid integer"),
        ('{"prompt": "a", "images": [1]}', "column images: Input should be a valid string"),
        ('{"prompt": "a", "images": {}}', "column images: Input should be a valid list"),
        ('{"prompt": "a", "image": ""}', "column image: is empty"),
        (
            '{"prompt": "a", "mode": "sync"}',
            "column mode: Input should be 'webhook', 'poll' or 'stream'",
        ),
        ('{"prompt": "a", "api": "images"}', "column api: Input should be 'draw' or 'api'"),
        ('{"prompt": "a", "api": "api"}', "column mode: the newer API has no callbacks"),
        (
            '{"prompt": "a", "provider": "acme"}',
            "column provider: Input should be 'grsai', 'openai', 'fal', 'replicate', 'bfl' or ",
        ),
        ('{"prompt": "a", "key": ""}', "column key: is empty"),
        ('{"prompt": "a", "key": 1.5}', "column key: Input should be a valid string"),
        (
            '{"prompt": "a", "key": "%s"}' % ("k" * 401),
            "column key: String should have at most 400",
        ),
        ('{"prompt": "a", "params": "x=1"}', "column params: write a JSON object, such as {"),
        ('{"prompt": "a", "metadata": "x"}', "column metadata: write a JSON object, such as {"),
        (
            '{"prompt": "a", "x": 1, "params": {"x": 2}}',
            "column params: x: both a column of its own and in params",
        ),
        ('{"prompt": "a", "x": 1e999}', "NaN and Infinity are not numbers in JSON"),
        ('{"prompt": "a", "x": 1e999, "key": "k"}', "NaN and Infinity are not numbers in JSON"),
    ],
)
def test_a_bad_line_names_its_number_and_column_and_stops_nothing_else(
    line: str, said: str
) -> None:
    found = read(f'{{"prompt": "before"}}\n\n{line}\n{{"prompt": "after"}}\n')
    assert numbers(found) == [1, 4]
    assert list(errors(found)) == [3]
    assert said in errors(found)[3]


def test_all_errors_of_a_line_are_reported_at_once() -> None:
    error = errors(read('{"model": 1, "variants": 0, "mode": "fax"}'))[1]
    assert [part.partition(":")[0] for part in error.split("; ")] == [
        "column prompt",
        "column model",
        "column variants",
        "column mode",
    ]


def test_bytes_that_are_not_utf8_are_an_error_with_their_column() -> None:
    found = read(b'{"prompt": "a"}\n{"prompt": "caf\xe9"}\n{"prompt": "b"}\n')
    assert (numbers(found), errors(found)) == ([1, 3], {2: "column 16: not UTF-8"})


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_an_endless_line_is_skipped_in_pieces(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_lines, "LONGEST", 100)
    good, header = ('{"prompt": "a"}\n', "") if form == "jsonl" else ("a\n", "prompt\n")
    found = read(f"{header}{good}{'x' * 1000}\n{good}{'y' * 101}", form)
    first = 1 + bool(header)
    assert numbers(found) == [first, first + 2]
    assert all("column 101: the line is longer" in error for error in errors(found).values())
    assert list(errors(found)) == [first + 1, first + 3]


def test_an_error_is_short_however_long_the_line() -> None:
    (bad,) = read(
        json.dumps(
            {
                "prompt": "a",
                "params": {f"name{n}": 1 for n in range(1000)},
                **{f"name{n}": 1 for n in range(1000)},
            }
        )
    )
    assert isinstance(bad, BadLine)
    assert len(bad.error) <= 500


# Bad rows.


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a,1", "column 3: the row has 2 cells, the header 3"),
        ("a,1,x,y,z", "column 4: the row has 5 cells, the header 3"),
        ('"a"b,1,x', "not CSV"),
        (",1,x", "column prompt: Field required"),
        ("a,two,x", "column variants: Input should be a valid integer"),
        ("a,1.0,x", "column variants: Input should be a valid integer"),
        (f"{'a' * 140_000},1,x", "not CSV: field larger than field limit"),
    ],
)
def test_a_malformed_row_is_a_bad_line(row: str, said: str) -> None:
    found = read(f"prompt,variants,quality\nbefore,1,x\n{row}\nafter,1,x\n", "csv")
    assert numbers(found) == [2, 4]
    assert list(errors(found)) == [3]
    assert said in errors(found)[3]


def test_a_quote_left_open_takes_no_more_than_it_must() -> None:
    filling = "x,1\n" * 40_000
    found = read(f'prompt,variants\na,1\n"b,1\n{filling}c,1\n', "csv")
    (number,) = errors(found)
    assert number == 3
    assert "a quote left open?" in errors(found)[number]
    assert numbers(found)[0] == 2
    assert numbers(found)[-1] == 40_004


def test_a_quote_left_open_at_the_end_is_an_error() -> None:
    found = read('prompt\na\n"b\nc\n', "csv")
    assert (numbers(found), list(errors(found))) == ([2], [3])


def test_a_row_that_is_not_utf8_is_a_bad_line() -> None:
    found = read(b"prompt\na\ncaf\xe9\nb\n", "csv")
    assert (numbers(found), errors(found)) == ([2, 4], {3: "column 4: not UTF-8"})


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("model,size", ["no column prompt, but model, size"]),
        ("prompt;model", ["no column prompt, but prompt;model"]),
        ("prompt,model,model", ["names 'model' twice"]),
        ("prompt,,size", ["a column without a name"]),
        ("size,size", ["names 'size' twice", "no column prompt"]),
        ('"prompt', ["cannot be read"]),
    ],
)
def test_a_header_that_cannot_be_one_is_a_mistake_of_the_whole_file(
    header: str, said: list[str]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(f"{header}\na,b,c\n", "csv")
    assert len(caught.value.mistakes) == len(said)
    assert all(part in mistake for part, mistake in zip(said, caught.value.mistakes, strict=True))
