"""The sandbox's file URLs: the picture as made, the expiry of a URL, and every download fault."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from waiting import until

from submitter.sandbox import Sandbox

SIZE = 60_000
QUICK = {"delay": 0, "bytes": SIZE}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(script=QUICK) as running:
        yield running


def ask(sandbox: Sandbox, path: str, /, **body: Any) -> Any:
    headers = {"Authorization": "Bearer any"}
    return requests.post(sandbox.url + path, json=body, headers=headers, timeout=10).json()["data"]


def make(sandbox: Sandbox, /, **script: Any) -> tuple[str, str]:
    """Have one picture made; return the task's id and the picture's URL."""
    body = {"model": "m", "prompt": "a fox", "size": "64x48", "webHook": "-1", "sandbox": script}
    task_id = ask(sandbox, "/v1/draw/completions", **body)["id"]
    until(lambda: bool(sandbox.task(task_id)["files"]))
    return task_id, read(sandbox, task_id)


def read(sandbox: Sandbox, task_id: str) -> str:
    """Read the result; return its URL."""
    return str(ask(sandbox, "/v1/draw/result", id=task_id)["url"])


def get(url: str) -> requests.Response:
    return requests.get(url, timeout=10, allow_redirects=False)


def partial(url: str) -> bytes:
    """Return what comes before the connection breaks; fail if it does not break."""
    got = bytearray()
    with (
        requests.get(url, stream=True, timeout=10) as answer,
        pytest.raises((requests.RequestException, ConnectionError)),
    ):
        got.extend(byte for piece in answer.iter_content(1000) for byte in piece)
    return bytes(got)


@pytest.mark.parametrize(
    ("form", "extension", "content_type"),
    [("jpeg", "jpg", "image/jpeg"), ("mp4", "mp4", "video/mp4")],
)
def test_a_file_is_what_was_asked_for_and_remembered(
    sandbox: Sandbox, form: str, extension: str, content_type: str
) -> None:
    task_id, url = make(sandbox, format=form, bytes=200_000)
    answer = get(url)
    name = url.removeprefix(f"{sandbox.url}/file/")
    assert (len(name), name.partition(".")[2], int(name[:32], 16) > 0) == (36, extension, True)
    assert answer.headers["Content-Type"] == content_type
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    (file,) = sandbox.task(task_id)["files"]
    digest = hashlib.sha256(answer.content).hexdigest()
    assert file | {"expires_at": 0} == {
        "index": 0,
        "url": url,
        "expires_at": 0,
        "sha256": digest,
        "size": len(answer.content),
        "content_type": content_type,
        "width": 64,
        "height": 48,
        "gets": 1,
        "downloads": 1,
    }
    assert 7100 < file["expires_at"] - time.time() <= 7200


def test_a_url_expires_and_a_read_gives_a_new_one_for_the_same_bytes(sandbox: Sandbox) -> None:
    task_id, url = make(sandbox, file={"lifetime": 0.3})
    content = get(url).content
    until(lambda: get(url).status_code == 403)
    fresh = read(sandbox, task_id)
    assert fresh != url
    assert get(fresh).content == content


@pytest.mark.parametrize(("refresh", "status"), [(True, 200), (False, 403)])
def test_an_early_expired_url_is_replaced_if_the_script_allows(
    sandbox: Sandbox,
    refresh: bool,  # noqa: FBT001 - a column of the table
    status: int,
) -> None:
    task_id, url = make(sandbox, file="expired", result={"refresh": refresh})
    assert get(url).status_code == 403
    assert get(read(sandbox, task_id)).status_code == status


@pytest.mark.parametrize(
    ("file", "statuses"),
    [
        ({"mode": "not_ready"}, [404, 200, 200]),
        ({"mode": "error", "times": 2}, [500, 500, 200]),
        ({"mode": "error", "times": 0}, [500, 500, 500]),
        ({"mode": "redirect", "times": 1}, [302, 200, 200]),
    ],
)
def test_a_fault_ends_after_as_many_gets_as_the_script_says(
    sandbox: Sandbox, file: dict[str, Any], statuses: list[int]
) -> None:
    task_id, url = make(sandbox, file=file)
    assert [get(url).status_code for _ in statuses] == statuses
    (shown,) = sandbox.task(task_id)["files"]
    assert (shown["gets"], shown["downloads"]) == (len(statuses), statuses.count(200))


def test_a_body_may_be_a_placeholder_or_empty_and_its_type_wrong(sandbox: Sandbox) -> None:
    answer = get(make(sandbox, file="placeholder")[1])
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/png")
    assert answer.content.startswith(b"<html>")
    answer = get(make(sandbox, file="empty")[1])
    assert (answer.status_code, answer.headers["Content-Length"], answer.content) == (200, "0", b"")
    answer = get(make(sandbox, file={"content_type": "text/plain"})[1])
    assert (answer.headers["Content-Type"], len(answer.content)) == ("text/plain", SIZE)


def test_a_redirect_leads_to_the_file_or_to_the_url_of_the_script(sandbox: Sandbox) -> None:
    _, url = make(sandbox, file="redirect")
    assert len(requests.get(url, timeout=10).content) == SIZE
    target = "http://169.254.169.254/latest/meta-data"
    _, url = make(sandbox, file={"mode": "redirect", "to": target})
    assert get(url).headers["Location"] == target


@pytest.mark.parametrize("mode", ["truncated", "reset"])
def test_a_file_breaks_off_where_the_script_says(sandbox: Sandbox, mode: str) -> None:
    _, url = make(sandbox, file={"mode": mode, "at": 0.25})
    whole, got = get(f"{url}?plain=1").content, partial(url)
    assert whole.startswith(got)
    assert len(got) <= SIZE // 4


def test_a_reset_is_a_reset(sandbox: Sandbox) -> None:
    _, url = make(sandbox, file={"mode": "reset", "at": 0})
    with pytest.raises(requests.RequestException, match="reset by peer"):
        get(url)


def test_a_length_may_be_missing_or_wrong(sandbox: Sandbox) -> None:
    answer = get(make(sandbox, file={"mode": "truncated", "length": False})[1])
    assert "Content-Length" not in answer.headers
    assert len(answer.content) == SIZE // 2
    _, url = make(sandbox, file={"mode": "wrong_length", "at": 0.75, "times": 1})
    with requests.Session() as session:
        answer = session.get(url, timeout=10)
        assert int(answer.headers["Content-Length"]) == len(answer.content) == SIZE * 3 // 4
        # The rest of the file must not be read as the next answer on this connection.
        assert len(session.get(url, timeout=10).content) == SIZE


def test_a_slow_file_comes_at_its_rate(sandbox: Sandbox) -> None:
    _, url = make(sandbox, file={"mode": "slow", "rate": 4 * SIZE})
    started = time.monotonic()
    assert len(get(url).content) == SIZE
    assert time.monotonic() - started > 0.2


def test_stopping_ends_a_slow_download_and_removes_every_file() -> None:
    with Sandbox(script=QUICK) as running:
        _, url = make(running, file={"mode": "slow", "rate": 10})
        folder = Path(running._folder.name)
        answer = requests.get(url, stream=True, timeout=10)
        assert list(folder.iterdir())
    assert not folder.exists()
    answer.close()


def test_files_beyond_the_limit_on_disk_are_made_again_the_same() -> None:
    with Sandbox(script=QUICK, keep_bytes=3 * SIZE) as running:
        made = [make(running) for _ in range(6)]
        first = [get(url).content for _, url in made]
        assert sum(path.stat().st_size for path in Path(running._folder.name).iterdir()) <= 3 * SIZE
        assert [get(url).content for _, url in made] == first


def test_the_oldest_tasks_are_forgotten_with_their_files() -> None:
    with Sandbox(script=QUICK, keep_tasks=2) as running:
        made = [make(running) for _ in range(4)]
        assert [task["id"] for task in running.tasks()] == [task_id for task_id, _ in made[2:]]
        assert [get(url).status_code for _, url in made] == [404, 404, 200, 200]
        assert ask(running, "/v1/draw/result", id=made[0][0]) is None
        assert len(list(Path(running._folder.name).iterdir())) == 2
