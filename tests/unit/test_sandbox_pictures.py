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


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("width", "height"), [(1024, 1024), (640, 352), (17, 301)])
def test_a_picture_is_what_it_says_it_is(form: Format, width: int, height: int) -> None:
    opened = decoded(picture("a task/0", form, width, height, 120_000))
    assert (opened.format, opened.size, opened.mode) == (form.upper(), (width, height), "RGB")


@pytest.mark.parametrize("form", get_args(Format))
@pytest.mark.parametrize("size", [100_000, 1_000_001, 3 * 2**20 + 7, 8_000_000])
def test_a_file_has_the_size_asked_for(form: Format, size: int) -> None:
    assert abs(len(picture("a task/0", form, 512, 512, size)) - size) <= 4


@pytest.mark.parametrize("form", FORMATS)
def test_every_length_of_padding_gives_a_whole_file(form: Format) -> None:
    smallest = len(picture("a task/0", form, 64, 64, 1))
    for more in range(80):
        assert decoded(picture("a task/0", form, 64, 64, smallest + more)).size == (64, 64)


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_cannot_be_smaller_than_its_drawing(form: Format) -> None:
    data = picture("a task/0", form, 256, 256, 1)
    assert 100 < len(data) < 20_000
    assert decoded(data).size == (256, 256)


@pytest.mark.parametrize("form", get_args(Format))
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(form: Format) -> None:
    once, again, other = (
        picture(seed, form, 200, 100, 50_000) for seed in ("a task/0", "a task/0", "a task/1")
    )
    assert once == again
    assert once != other


@pytest.mark.parametrize("form", FORMATS)
def test_files_that_share_a_look_show_the_same_and_differ_in_their_bytes(form: Format) -> None:
    one, two = (
        picture(seed, form, 200, 100, 50_000, look="dawn") for seed in ("a task/0", "a task/1")
    )
    assert one != two
    assert decoded(one).tobytes() == decoded(two).tobytes()


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_cut_in_half_is_no_whole_picture(form: Format) -> None:
    data = picture("a task/0", form, 512, 512, 400_000)
    with pytest.raises((OSError, SyntaxError)):
        decoded(data[: len(data) // 2])


def test_a_gallery_is_not_all_the_same_picture() -> None:
    gallery = [decoded(picture(f"a task/{index}", "png", 64, 64, 1)) for index in range(20)]
    assert len({shown.tobytes() for shown in gallery}) == 20
    assert all(len(shown.getcolors(64 * 64) or []) > 8 for shown in gallery)


def test_a_movie_consists_of_whole_boxes_and_its_frame_is_where_the_index_says() -> None:
    data = picture("a task/0", "mp4", 1280, 720, 300_000)
    boxes = top_level_boxes(data)
    assert [name for name, _ in boxes] == ["ftyp", "moov", "mdat"]
    assert sum(length for _, length in boxes) == len(data)
    moov = data[boxes[0][1] :]
    place = int.from_bytes(moov[(at := moov.index(b"stco") + 12) : at + 4], "big")
    size = int.from_bytes(moov[(at := moov.index(b"stsz") + 16) : at + 4], "big")
    assert decoded(data[place : place + size]).size == (1280, 720)


def top_level_boxes(data: bytes) -> list[tuple[str, int]]:
    boxes, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        boxes.append((data[at + 4 : at + 8].decode(), length))
        at += length
    return boxes


def test_unasked_sizes_are_those_of_real_results() -> None:
    sides = (256, 1024, 2048, 4096)
    sizes = [
        default_size(f"{number}", form, side, side)
        for form, side, number in itertools.product(CONTENT_TYPES, sides, range(20))
    ]
    assert min(sizes) == 100_000
    assert max(sizes) == 8_000_000
    assert len({default_size(f"{number}", "png", 1024, 1024) for number in range(20)}) > 10
