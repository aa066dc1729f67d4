"""The three outcomes: complete, a defect that viewers tolerate, or not the (whole) picture."""

from collections.abc import Callable

import pytest
from damaged_pictures import COMPLETE, CUT, OPEN_ENDED, TOLERATED, UNFINISHED
from made_pictures import WHOLE

from receiver.archive.inspect import Picture, inspect
from receiver.errors import NotThePictureError, TruncatedError

Look = Callable[[bytes], Picture]


@pytest.fixture(scope="module")
def look(tmp_path_factory: pytest.TempPathFactory) -> Look:
    """Inspect these bytes as a file."""
    path = tmp_path_factory.mktemp("outcomes") / "picture"

    def call(content: bytes) -> Picture:
        path.write_bytes(content)
        return inspect(path)

    return call


def is_complete(picture: Picture) -> bool:
    return not (picture.defect or picture.unfinished or picture.open_ended)


@pytest.mark.parametrize("kind", CUT)
def test_what_lacks_a_part_is_cut_short(kind: str, look: Look) -> None:
    with pytest.raises(TruncatedError):
        look(CUT[kind])


@pytest.mark.parametrize("kind", TOLERATED)
def test_a_defect_that_viewers_tolerate_is_named(kind: str, look: Look) -> None:
    content, defect = TOLERATED[kind]
    picture = look(content)
    assert defect in picture.defect
    assert not picture.unfinished
    assert not picture.open_ended


@pytest.mark.parametrize("kind", UNFINISHED)
def test_a_whole_picture_without_its_end_is_unfinished(kind: str, look: Look) -> None:
    assert "missing" in look(UNFINISHED[kind]).unfinished


@pytest.mark.parametrize("kind", OPEN_ENDED)
def test_a_file_that_does_not_say_where_it_ends_is_open_ended(kind: str, look: Look) -> None:
    assert look(OPEN_ENDED[kind]).open_ended


@pytest.mark.parametrize("kind", COMPLETE)
def test_a_file_that_says_where_it_ends_is_complete(kind: str, look: Look) -> None:
    assert is_complete(look(COMPLETE[kind]))


WHOLE_FILES = {kind: content for kind, (content, _) in WHOLE.items()} | COMPLETE | OPEN_ENDED


@pytest.mark.parametrize("kind", WHOLE_FILES)
def test_no_beginning_of_a_file_is_complete(
    kind: str, look: Look, pytestconfig: pytest.Config
) -> None:
    content = WHOLE_FILES[kind]
    most = 60 if pytestconfig.getoption("thorough") else 15
    lengths = {
        *range(0, len(content), max(1, len(content) // most)),
        *range(min(40, len(content))),
        *range(len(content) - 24, len(content)),
    }
    for length in lengths:
        try:
            picture = look(content[:length])
        except NotThePictureError:
            continue
        assert not is_complete(picture), f"{length} of {len(content)} bytes"
        # Only bytes of the last 24 can be the end marker; a scan has more.
        assert picture.open_ended or length >= len(content) - 24


def test_pixels_that_disagree_with_their_checksums_may_come_better_next_time(look: Look) -> None:
    content = bytearray(WHOLE["png"][0])
    content[content.index(b"IDAT") + 400] ^= 1
    picture = look(bytes(content))
    assert "checksum" in picture.unfinished
    assert "checksum of PNG chunk 'IDAT'" in picture.defect


def test_pixels_that_are_zeros_from_somewhere_on_are_not_the_picture(look: Look) -> None:
    content = WHOLE["png"][0]
    with pytest.raises(NotThePictureError, match="checksum of chunk 'IDAT'"):
        look(content[:400] + bytes(len(content) - 400))
