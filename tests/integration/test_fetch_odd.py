"""Downloads in odd answers: early hints, repeated headers, encodings, a missing last chunk."""

import gzip
import hashlib
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from outside_network import OK, PICTURE, WEB, OutsideNetwork, Script, answer, chunked, send

from receiver.errors import FetchError, TooLargeError

PACKED = gzip.compress(PICTURE)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[OutsideNetwork]:
    with OutsideNetwork(tmp_path / "picture") as network:
        yield network


@pytest.mark.parametrize(
    "script",
    [
        send(
            b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nContent-Length: 9\r\n\r\n" * 2,
            OK,
            b"Content-Length: %d\r\n\r\n" % len(PICTURE),
            PICTURE,
        ),
        answer(status="203 Non-Authoritative"),
        answer(f"Content-Range: bytes 0-{len(PICTURE) - 1}/{len(PICTURE)}", status="206 Partial"),
        answer(*[f"X-{number}: 1" for number in range(200)]),
        answer(*[f"Content-Length: {len(PICTURE)}"] * 3),
        answer(f"Content-Length: {len(PICTURE)}, {len(PICTURE)}"),
        chunked(PICTURE, head="Transfer-Encoding: chunked"),
        chunked(PICTURE, head="Transfer-Encoding: chunked, chunked"),
        *(
            answer(f"Content-Encoding: {token}")
            for token in (
                "utf-8",
                "aws-chunked",
                "binary",
                "none",
                "",
                "identity",
                "gzip",
                "deflate",
            )
        ),
    ],
    ids=range(16),
)
def test_an_odd_head_around_a_whole_file_does_no_harm(
    network: OutsideNetwork, script: Script
) -> None:
    network.serve(script, at=WEB)
    fetched = network.fetch()
    assert (fetched.sha256, fetched.decoded) == (hashlib.sha256(PICTURE).hexdigest(), "")
    assert fetched.cut_short == ""


@pytest.mark.parametrize(
    ("header", "body", "decoded"),
    [
        ("gzip", PACKED, "gzip"),
        ("x-gzip, utf-8", PACKED, "gzip"),
        ("gzip", gzip.compress(PICTURE[:1000]) + gzip.compress(PICTURE[1000:]) + b"\0" * 9, "gzip"),
        ("deflate", zlib.compress(PICTURE), "deflate"),
        ("deflate", zlib.compress(PICTURE, wbits=-15), "deflate"),
        ("deflate", PACKED, "gzip"),
        ("deflate, GZIP", gzip.compress(zlib.compress(PICTURE)), "deflate, gzip"),
    ],
)
def test_an_encoded_file_is_decoded_and_says_so(
    network: OutsideNetwork, header: str, body: bytes, decoded: str
) -> None:
    network.serve(answer(f"Content-Encoding: {header}", body=body), at=WEB)
    fetched = network.fetch()
    assert (fetched.size, fetched.decoded) == (len(PICTURE), decoded)
    assert fetched.sha256 == hashlib.sha256(PICTURE).hexdigest()
    assert network.picture.read_bytes() == PICTURE


def test_a_decoded_file_is_bounded(network: OutsideNetwork) -> None:
    network.serve(answer("Content-Encoding: gzip", body=gzip.compress(bytes(9 << 20))), at=WEB)
    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError):
            network.fetch(max_bytes=8 << 20)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("end", [b"", b"fffff\r\nabc", b"never\r\n"])
def test_a_file_whose_last_chunk_is_missing_is_kept_with_a_doubt(
    network: OutsideNetwork, end: bytes
) -> None:
    network.serve(chunked(PICTURE[:1000], PICTURE[1000:], end=end), at=WEB)
    fetched = network.fetch()
    assert (fetched.size, fetched.cut_short) == (
        len(PICTURE),
        "pictures.example: the end of its chunks is missing",
    )


@pytest.mark.parametrize("content_range", ["0-999/2000", "0-1999/2000"])
def test_a_part_of_a_file_is_not_the_file(network: OutsideNetwork, content_range: str) -> None:
    part = answer(
        f"Content-Range: bytes {content_range}", body=PICTURE[:1000], status="206 Partial"
    )
    network.serve(part, at=WEB)
    with pytest.raises(FetchError, match="answered 206"):
        network.fetch()


def test_the_user_agent_can_be_chosen(network: OutsideNetwork) -> None:
    server = network.serve(answer(), at=WEB)
    network.fetch(user_agent="Mozilla/5.0 (compatible)")
    assert b"\r\nUser-Agent: Mozilla/5.0 (compatible)\r\n" in server.requests[0]
