"""The picture leaves the archive: `receiver get`, links, and the library's assets."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from api_jobs import PICTURE, archived, get, submitted
from commands import invoke
from processes import Finished
from web_client import SUCCEEDED, WebClient, web_client

from receiver.errors import ReceiverError
from submitter import Submitter

BASE = "http://pictures.test"


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebClient]:
    """Open a web application, for all tests of this module."""
    with web_client(tmp_path_factory.mktemp("get") / "data", {"PUBLIC_URL": BASE}) as web:
        yield web


@pytest.fixture(scope="module")
def ref(web: WebClient, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make a job with an archived picture."""
    return archived(web, tmp_path_factory.mktemp("fetched"))


@pytest.fixture(scope="module")
def half(web: WebClient) -> str:
    """Make a job with two results, of which none is archived yet."""
    ref = submitted(web)
    urls = [{"url": f"https://files.test/{number}.png"} for number in range(2)]
    body = {**SUCCEEDED, "id": "task-2", "results": urls}
    assert web.callback(web.services.tickets.sign(ref), body).status_code == 200
    return ref


Refs = dict[str, str]


@pytest.fixture(scope="module")
def made(ref: str, half: str) -> Refs:
    """Return both jobs by name."""
    return {"ref": ref, "half": half}


def run(web: WebClient, folder: Path, *arguments: str) -> Finished:
    """Run `receiver get` in a folder, inside this process."""
    environ = {"DATA_DIR": str(web.services.settings.data_dir), "PUBLIC_URL": BASE}
    return invoke(("receiver", "get", *arguments), environ, folder=folder)


@pytest.mark.parametrize(
    ("output", "saved"),
    [
        ((), "{ref}-0.png"),
        (("-o", "fox.png"), "fox.png"),
        (("-o", "new/"), "new/{ref}-0.png"),
        (("-o", "."), "{ref}-0.png"),
        (("0", "--output", "a b.png"), "a b.png"),
    ],
)
def test_a_picture_is_saved_where_it_is_wanted(
    web: WebClient, ref: str, tmp_path: Path, output: tuple[str, ...], saved: str
) -> None:
    done = run(web, tmp_path, ref, *output)
    path = saved.format(ref=ref)
    assert (done.status, done.out, done.err) == (0, f"{path}\n", "")
    assert (tmp_path / path).read_bytes() == PICTURE
    again = run(web, tmp_path, ref, *output)
    assert (again.status, again.err) == (0, f"{path} was there already\n")


def test_a_ref_may_be_written_in_lower_case_and_by_its_beginning(
    web: WebClient, ref: str, half: str, tmp_path: Path
) -> None:
    short = next(ref[:length] for length in range(4, 27) if not half.startswith(ref[:length]))
    done = run(web, tmp_path, short.lower(), "-o", "a.png")
    assert (done.status, (tmp_path / "a.png").read_bytes()) == (0, PICTURE)
    several = run(web, tmp_path, ref[:4])
    assert (several.status, several.out) == (1, "")
    assert all(one in several.err for one in ("beginning of several jobs", ref, half))
    assert "…" not in several.err, "all of them are named"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("{ref}", "1"), 1, "has no asset 1, but 1, counted from 0"),
        (("7ZZZZZZZZZZZZZZZZZZZZZZZZZ",), 1, "there is no job 7ZZZZZZZZZZZZZZZZZZZZZZZZZ"),
        (("nonsense",), 2, "nonsense is not a ref"),
        (("{ref}", "-1"), 2, ""),
        (("{half}",), 1, "asset 0 is pending\nasset 1 is pending\n"),
        (("{half}", "-o", "-"), 1, "asset 0 is pending\n"),
        (("{ref}", "-o", "mine.png"), 1, "mine.png exists and is another file"),
        (("{ref}", "-o", "missing/a.png"), 1, "cannot write missing/a.png"),
        (("{ref}", "-o", "mine.png/"), 1, "cannot write into mine.png"),
    ],
)
def test_what_cannot_be_had_is_said_and_nothing_is_written(
    web: WebClient, made: Refs, tmp_path: Path, arguments: tuple[str, ...], status: int, said: str
) -> None:
    (tmp_path / "mine.png").write_bytes(b"mine")
    done = run(web, tmp_path, *(one.format(**made) for one in arguments))
    assert (done.status, done.out) == (status, "")
    assert said in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]
    assert (tmp_path / "mine.png").read_bytes() == b"mine"


# Links.


def test_a_link_of_ours_needs_no_token_and_ends(web: WebClient, ref: str) -> None:
    answer = get(web, f"/api/jobs/{ref}/assets/0/link").json
    path = answer["url"].removeprefix(BASE)
    with web.client.get(path) as file:
        assert (file.status_code, file.data) == (200, PICTURE)
        assert file.headers["Content-Disposition"].startswith("attachment")
    signed, name = path.removeprefix("/files/").split("/")
    for wrong in (f"/files/{signed}x/{name}", f"/files/x{signed}/{name}", "/files/a.b/c"):
        assert web.client.get(wrong).status_code == 404
    links = web.services.links
    links._now, now = (lambda: now() + 901), links._now
    assert links.read(signed) is None
    links._now = now
    assert links.read(signed) == (ref, 0)
    assert get(web, f"/api/jobs/{ref}/assets/1/link").status_code == 404


def test_with_a_public_address_of_the_archive_links_last(tmp_path: Path) -> None:
    environ = {"ARCHIVE_PUBLIC_URL": "https://cdn.test/pictures/"}
    with web_client(tmp_path / "data", environ) as web:
        ref = archived(web, tmp_path)
        (asset,) = get(web, f"/api/jobs/{ref}").json["assets"]
        link = get(web, f"/api/jobs/{ref}/assets/0/link").json
    assert asset["public_url"] == f"https://cdn.test/pictures/{asset['key']}"
    assert link == {"url": asset["public_url"], "expires_at": None}


def test_a_bucket_signs_its_links(sqlite_url: str, bucket: str, tmp_path: Path) -> None:
    environ = {"DATABASE_URL": sqlite_url, "ARCHIVE_URL": f"s3://{bucket}/prefix"}
    with web_client(tmp_path / "data", environ) as web:
        path = f"/api/jobs/{archived(web, tmp_path)}/assets/0/link"
        assert requests.get(get(web, path).json["url"], timeout=10).content == PICTURE


# The library.


def library(web: WebClient) -> Submitter:
    """Open the library on the same ledger."""
    return Submitter(web.services.settings, check=False)


def test_an_asset_of_the_library_is_read_saved_and_linked(
    web: WebClient, ref: str, tmp_path: Path
) -> None:
    with library(web) as submitter:
        job = submitter.job(ref)
        (asset,) = job.assets
        assert asset.read() == PICTURE
        assert asset.save(tmp_path) == tmp_path / f"{ref}-0.png"
        assert asset.save(str(tmp_path / "a.png")).read_bytes() == PICTURE
        assert asset.url().startswith(f"{BASE}/files/")
        assert json.loads(job.model_dump_json()) == get(web, f"/api/jobs/{ref}").json


@pytest.mark.parametrize("act", [lambda a: a.read(), lambda a: a.save("x"), lambda a: a.url()])
def test_an_asset_that_is_not_archived_says_so(web: WebClient, half: str, act: Any) -> None:
    with library(web) as submitter, pytest.raises(ReceiverError, match="is pending"):
        act(submitter.job(half).assets[0])
