"""The sandbox's result files: real pictures of the size asked for, the same ones every time."""

import io
import itertools
from typing import get_args

import pytest
from PIL import Image

from submitter.sandbox.pictures import CONTENT_TYPES, Format, default_size, picture

FORMATS: list[Format] = ["png", "jpeg", "webp"]


def decoded(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as checked:
        checked.verify()  # PNG: every checksum
    opened = Image.open(io.BytesIO(data))
    opened.load()
    return opened


@pytest.mark.parametrize("form", get_args(Format))
def test_a_seed_always_gives_the_same_file_of_the_size_asked_for(form: Format) -> None:
    once, again, other = (
        picture(seed, form, 200, 100, 1_000_001) for seed in ("a task/0", "a task/0", "a task/1")
    )
    assert once == again != other
    assert abs(len(once) - 1_000_001) <= 4


@pytest.mark.parametrize("form", FORMATS)
def test_every_length_of_padding_gives_a_whole_picture(form: Format) -> None:
    smallest = len(picture("a task/0", form, 17, 31, 1))
    for more in range(80):
        opened = decoded(picture("a task/0", form, 17, 31, smallest + more))
        assert (opened.format, opened.size, opened.mode) == (form.upper(), (17, 31), "RGB")


@pytest.mark.parametrize("form", FORMATS)
def test_files_with_the_same_look_show_the_same_and_differ_in_their_bytes(form: Format) -> None:
    seeds = ("a task/0", "a task/1")
    one, two = (picture(seed, form, 200, 100, 50_000, look="dawn") for seed in seeds)
    assert one != two
    assert decoded(one).tobytes() == decoded(two).tobytes()
    with pytest.raises((OSError, SyntaxError)):
        decoded(one[: len(one) // 2])


def test_a_movie_consists_of_whole_boxes_and_its_frame_is_where_the_index_says() -> None:
    data = picture("a task/0", "mp4", 1280, 720, 300_000)
    boxes = top_level_boxes(data)
    assert [name for name, _ in boxes] == ["ftyp", "moov", "mdat"]
    assert sum(length for _, length in boxes) == len(data)
    moov = data[boxes[0][1] :]
    offset = int.from_bytes(moov[(at := moov.index(b"stco") + 12) : at + 4], "big")
    size = int.from_bytes(moov[(at := moov.index(b"stsz") + 16) : at + 4], "big")
    assert decoded(data[offset : offset + size]).size == (1280, 720)


def top_level_boxes(data: bytes) -> list[tuple[str, int]]:
    boxes, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        boxes.append((data[at + 4 : at + 8].decode(), length))
        at += length
    return boxes


def test_default_sizes_are_those_of_real_results() -> None:
    sizes = [
        default_size(f"{number}", form, side, side)
        for form, side, number in itertools.product(CONTENT_TYPES, (256, 1024, 4096), range(20))
    ]
    assert (min(sizes), max(sizes)) == (100_000, 8_000_000)
