"""The sandbox's file URLs: the picture as made, the end of a URL, and every way in which a download goes wrong."""

import hashlib
import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from waiting import until

from submitter.sandbox import Sandbox

SIZE = 60_000
QUICK = {"delay": 0, "bytes": SIZE}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(script=QUICK) as running:
        yield running


def ask(sandbox: Sandbox, path: str, /, **body: Any) -> Any:
    return requests.post(
        sandbox.url + path, json=body, headers={"Authorization": "Bearer any"}, timeout=10
    ).json()["data"]


def make(sandbox: Sandbox, /, size: str = "64x64", **script: Any) -> tuple[str, str]:
    """Have one picture made and give the task's id and the picture's URL."""
    task_id = ask(
        sandbox,
        "/v1/draw/completions",
        model="m",
        prompt="a fox",
        size=size,
        webHook="-1",
        sandbox=script,
    )["id"]
    until(lambda: bool(sandbox.task(task_id)["files"]))
    return task_id, ask(sandbox, "/v1/draw/result", id=task_id)["url"]


def get(url: str) -> requests.Response:
    return requests.get(url, timeout=10, allow_redirects=False)


def partial(url: str) -> bytes:
    """Read what comes before the connection breaks; fails if it does not."""
    got = bytearray()
    with (
        requests.get(url, stream=True, timeout=10) as answer,
        pytest.raises((requests.RequestException, ConnectionError)),
    ):
        got.extend(byte for piece in answer.iter_content(1000) for byte in piece)
    return bytes(got)


@pytest.mark.parametrize(
    ("form", "extension", "content_type"),
    [
        ("png", ".png", "image/png"),
        ("jpeg", ".jpg", "image/jpeg"),
        ("webp", ".webp", "image/webp"),
        ("mp4", ".mp4", "video/mp4"),
    ],
)
def test_a_file_is_what_was_asked_for_and_remembered(
    sandbox: Sandbox, form: str, extension: str, content_type: str
) -> None:
    task_id, url = make(sandbox, size="320x200", format=form, bytes=200_000)
    answer = get(url)
    [file] = sandbox.task(task_id)["files"]
    assert (answer.status_code, answer.headers["Content-Type"], url.endswith(extension)) == (
        200,
        content_type,
        True,
    )
    assert int(answer.headers["Content-Length"]) == len(answer.content) == file["size"]
    assert abs(file["size"] - 200_000) <= 4
    assert hashlib.sha256(answer.content).hexdigest() == file["sha256"]
    assert (
        file["url"],
        file["content_type"],
        file["width"],
        file["height"],
        file["gets"],
        file["downloads"],
    ) == (
        *(url, content_type, 320, 200),
        *(1, 1),
    )
    if form != "mp4":
        assert Image.open(io.BytesIO(answer.content)).size == (320, 200)


def test_a_file_url_has_32_hex_digits_and_needs_no_key(sandbox: Sandbox) -> None:
    _, url = make(sandbox)
    host, kind, name = url.rsplit("/", 2)
    assert (host, kind) == (sandbox.url, "file")
    assert len(name) == 36
    assert int(name[:32], 16)
    assert get(f"{host}/{kind}/{'0' * 32}.png").status_code == 404


def test_a_url_ends_and_reading_again_gives_a_fresh_one_for_the_same_bytes(
    sandbox: Sandbox,
) -> None:
    task_id, url = make(sandbox, file={"lifetime": 0.3})
    content = get(url).content
    until(lambda: get(url).status_code == 403)
    assert get(url).headers["Content-Type"].startswith("text/html")
    fresh = ask(sandbox, "/v1/draw/result", id=task_id)["url"]
    assert fresh != url
    assert get(fresh).content == content


def test_a_url_stays_the_same_while_it_lives(sandbox: Sandbox) -> None:
    task_id, url = make(sandbox)
    assert ask(sandbox, "/v1/draw/result", id=task_id)["url"] == url
    assert 7100 < sandbox.task(task_id)["files"][0]["expires_at"] - time.time() <= 7200


@pytest.mark.parametrize(("refresh", "status"), [(True, 200), (False, 403)])
def test_a_url_that_died_early_is_replaced_if_the_script_allows(
    sandbox: Sandbox,
    refresh: bool,  # noqa: FBT001 - a column of the table
    status: int,
) -> None:
    task_id, url = make(sandbox, file="expired", result={"refresh": refresh})
    assert get(url).status_code == 403
    assert get(ask(sandbox, "/v1/draw/result", id=task_id)["url"]).status_code == status


@pytest.mark.parametrize(
    ("file", "statuses"),
    [
        ({"mode": "not_ready"}, [404, 200, 200]),
        ({"mode": "not_ready", "times": 2}, [404, 404, 200]),
        ({"mode": "error", "times": 2}, [500, 500, 200]),
        ({"mode": "error", "times": 0}, [500, 500, 500]),
        ({"mode": "redirect", "times": 1}, [302, 200, 200]),
    ],
)
def test_a_file_recovers_after_as_many_gets_as_the_script_says(
    sandbox: Sandbox, file: dict[str, Any], statuses: list[int]
) -> None:
    task_id, url = make(sandbox, file=file)
    assert [get(url).status_code for _ in statuses] == statuses
    [shown] = sandbox.task(task_id)["files"]
    assert (shown["gets"], shown["downloads"]) == (len(statuses), statuses.count(200))


def test_a_placeholder_claims_to_be_the_picture(sandbox: Sandbox) -> None:
    answer = get(make(sandbox, file="placeholder")[1])
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/png")
    assert answer.content.startswith(b"<html>")


def test_an_empty_file_is_a_success_without_a_byte(sandbox: Sandbox) -> None:
    answer = get(make(sandbox, file="empty")[1])
    assert (answer.status_code, answer.headers["Content-Length"], answer.content) == (200, "0", b"")


def test_a_redirect_leads_to_the_file_or_wherever_the_script_says(sandbox: Sandbox) -> None:
    _, url = make(sandbox, file="redirect")
    assert len(requests.get(url, timeout=10).content) == SIZE
    _, url = make(
        sandbox, file={"mode": "redirect", "to": "http://169.254.169.254/latest/meta-data"}
    )
    assert get(url).headers["Location"] == "http://169.254.169.254/latest/meta-data"


def test_a_content_type_may_be_wrong(sandbox: Sandbox) -> None:
    answer = get(make(sandbox, file={"content_type": "application/octet-stream"})[1])
    assert (answer.headers["Content-Type"], len(answer.content)) == (
        "application/octet-stream",
        SIZE,
    )


@pytest.mark.parametrize("mode", ["truncated", "reset"])
def test_a_file_breaks_off_where_the_script_says(sandbox: Sandbox, mode: str) -> None:
    task_id, url = make(sandbox, file={"mode": mode, "at": 0.25})
    whole = get(f"{url}?plain=1").content
    got = partial(url)
    assert whole.startswith(got)
    assert len(got) <= SIZE // 4
    assert sandbox.task(task_id)["files"][0]["downloads"] == 1


def test_a_reset_is_a_reset(sandbox: Sandbox) -> None:
    _, url = make(sandbox, file={"mode": "reset", "at": 0})
    with pytest.raises(requests.RequestException, match="reset by peer"):
        get(url)


def test_a_file_cut_without_an_announced_length_looks_whole(sandbox: Sandbox) -> None:
    answer = get(make(sandbox, file={"mode": "truncated", "length": False})[1])
    assert "Content-Length" not in answer.headers
    assert len(answer.content) == SIZE // 2


def test_a_wrong_length_hides_the_rest(sandbox: Sandbox) -> None:
    _, url = make(sandbox, file={"mode": "wrong_length", "at": 0.75, "times": 1})
    session = requests.Session()
    answer = session.get(url, timeout=10)
    assert int(answer.headers["Content-Length"]) == len(answer.content) == SIZE * 3 // 4
    # The rest of the file must not be taken for the next answer on this connection.
    assert len(session.get(url, timeout=10).content) == SIZE
    session.close()


def test_a_slow_file_drips_at_its_rate(sandbox: Sandbox) -> None:
    _, url = make(sandbox, file={"mode": "slow", "rate": 4 * SIZE})
    started = time.monotonic()
    assert len(get(url).content) == SIZE
    assert 0.2 < time.monotonic() - started < 5


def test_stopping_ends_a_slow_download_and_removes_every_file() -> None:
    with Sandbox(script=QUICK) as running:
        _, url = make(running, file={"mode": "slow", "rate": 10})
        folder = Path(running._folder.name)
        answer = requests.get(url, stream=True, timeout=10)
        assert list(folder.iterdir())
        started = time.monotonic()
    assert time.monotonic() - started < 5
    assert not folder.exists()
    answer.close()


def test_sixteen_downloads_at_once_are_whole(sandbox: Sandbox) -> None:
    urls = [make(sandbox, bytes=2_000_000, format="jpeg")[1] for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        contents = list(pool.map(lambda url: get(url).content, urls))
    assert {abs(len(content) - 2_000_000) <= 4 for content in contents} == {True}
    assert len({hashlib.sha256(content).digest() for content in contents}) == 16


def test_files_beyond_the_limit_on_disk_are_made_again_the_same() -> None:
    with Sandbox(script=QUICK, keep_bytes=3 * SIZE) as running:
        made = [make(running) for _ in range(6)]
        first = [get(url).content for _, url in made]
        assert sum(path.stat().st_size for path in Path(running._folder.name).iterdir()) <= 3 * SIZE
        assert [get(url).content for _, url in made] == first


def test_the_oldest_tasks_are_forgotten_with_their_files() -> None:
    with Sandbox(script=QUICK, keep_tasks=3) as running:
        made = [make(running) for _ in range(6)]
        assert [task["id"] for task in running.tasks()] == [task_id for task_id, _ in made[3:]]
        assert [get(url).status_code for _, url in made] == [404, 404, 404, 200, 200, 200]
        assert ask(running, "/v1/draw/result", id=made[0][0]) is None
        assert running.stats()["accepted"] == 6
        assert len(list(Path(running._folder.name).iterdir())) == 3
