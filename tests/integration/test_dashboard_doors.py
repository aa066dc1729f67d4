"""The dashboard's doors, without a browser: who comes in, for how long, and what is told at the door."""

import re
import time
from pathlib import Path

import pytest
from dashboard_client import PAGES, archived, post, reported
from web_client import FAILED, WebClient, web_client

from receiver.web import session
from receiver.web.dashboard import login

# Who comes in.


@pytest.mark.parametrize("path", [*PAGES, "/jobs/x", "/thumbnails/x/0", "/jobs/x/deliveries/1"])
def test_strangers_are_shown_the_login_and_nothing_else(web: WebClient, path: str) -> None:
    answer = web.client.get(path)
    assert (answer.status_code, answer.headers["Location"].startswith("/login?next=/")) == (
        303,
        True,
    )
    part = web.client.get(path, headers={"HX-Request": "true"})
    assert (part.status_code, part.data, part.headers["HX-Redirect"]) == (
        200,
        b"",
        "/login?next=/",
    ), "a part of a page leads there too"


@pytest.mark.parametrize(
    "path",
    [
        "/jobs/x/retry",
        "/jobs/x/hurry",
        "/submit",
        "/retry-all",
        "/replay-all",
        "/logout",
        "/events/1/resend",
    ],
)
def test_strangers_change_nothing(web: WebClient, path: str) -> None:
    answer = web.client.post(path, data={"csrf": "x"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/login?next=/")


def test_a_login_leads_where_one_wanted_to_go(web: WebClient) -> None:
    answer = web.client.post(
        "/login", data={"token": web.services.admin_token, "next": "/jobs?state=failed"}
    )
    assert answer.headers["Location"] == "/login?next=%2Fjobs%3Fstate%3Dfailed&welcome=1"
    again = web.client.get(answer.headers["Location"])
    assert (again.status_code, again.headers["Location"]) == (303, "/jobs?state=failed")
    assert web.client.get("/").status_code == 200


def test_a_browser_that_keeps_no_cookies_is_told_why_it_is_asked_again(web: WebClient) -> None:
    assert "https address of PUBLIC_URL" in web.client.get("/login?next=/&welcome=1").text


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://evil.test/",
        "//evil.test",
        "/\\evil.test",
        "javascript:alert(1)",
        "\t//evil.test",
        "",
    ],
)
def test_a_login_leads_nowhere_else(web: WebClient, elsewhere: str) -> None:
    web.client.post("/login", data={"token": web.services.admin_token})
    for path in ("/login", "/preferences"):
        assert web.client.get(path, query_string={"next": elsewhere}).headers["Location"] == "/"


@pytest.mark.parametrize("token", ["", "x", "é", "\x00", "x" * 100_000])
def test_a_wrong_token_is_told_and_not_repeated(web: WebClient, token: str) -> None:
    answer = web.client.post("/login", data={"token": token})
    assert (
        answer.status_code,
        "That is not the token." in answer.text,
        "Set-Cookie" in answer.headers,
    ) == (403, True, False)
    assert len(answer.text) < 5000


def test_wrong_tokens_are_heard_only_so_often_and_a_right_one_must_wait_too(
    web: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login, "_throttle", session.Throttle(2, 3.0, clock=lambda: 100.0))
    assert [web.client.post("/login", data={"token": "x"}).status_code for _ in range(3)] == [
        403,
        403,
        429,
    ]
    answer = web.client.post("/login", data={"token": web.services.admin_token})
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "4")
    assert web.client.get("/api/jobs", headers=web.admin).status_code == 200, (
        "programs are not kept out by people's mistakes"
    )


def test_patience_gives_another_attempt() -> None:
    now = [0.0]
    throttle = session.Throttle(2, 3.0, clock=lambda: now[0])
    assert [throttle.wait(), throttle.wait(), throttle.wait()] == [0, 0, 4]
    now[0] += 3
    assert [throttle.wait(), throttle.wait()] == [0, 4]
    now[0] += 999
    assert [throttle.wait(), throttle.wait(), throttle.wait()] == [0, 0, 4]


@pytest.mark.parametrize(
    ("public_url", "name", "secure"),
    [
        ("https://pictures.test", "__Host-receiver", True),
        ("http://127.0.0.1:8787", "receiver", False),
    ],
)
def test_the_cookie_is_for_this_site_alone_and_out_of_reach_of_scripts(
    sqlite_url: str, tmp_path: Path, public_url: str, name: str, *, secure: bool
) -> None:
    with web_client(
        tmp_path / "data", {"DATABASE_URL": sqlite_url, "PUBLIC_URL": public_url}
    ) as web:
        cookie = web.client.post("/login", data={"token": web.services.admin_token}).headers[
            "Set-Cookie"
        ]
        given = dict.fromkeys(part.strip() for part in cookie.split(";"))
        assert cookie.startswith(f"{name}=")
        assert {"HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"} <= set(given)
        assert ("Secure" in given, "Domain" in cookie) == (secure, False)
        assert web.services.admin_token not in cookie


def test_a_cookie_ends_with_its_time_with_the_token_and_with_any_change(
    inside: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    cookie = inside.client.get_cookie("receiver")
    assert cookie is not None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + session.LIFETIME - 10)
    assert inside.client.get("/").status_code == 200
    monkeypatch.setattr(time, "time", lambda: now + session.LIFETIME + 10)
    assert inside.client.get("/").status_code == 303
    monkeypatch.undo()
    inside.client.set_cookie(
        "receiver", cookie.value[:-1] + ("A" if cookie.value[-1] != "A" else "B")
    )
    assert inside.client.get("/").status_code == 303
    inside.client.set_cookie("receiver", cookie.value)
    assert inside.client.get("/").status_code == 200
    inside.services.__dict__["admin_token"] = "another"
    assert inside.client.get("/").status_code == 303


def test_a_logout_forgets_the_session_and_needs_a_form_of_ours(inside: WebClient) -> None:
    assert inside.client.post("/logout").status_code == 403
    answer = post(inside, "/logout")
    assert "receiver=;" in answer.headers["Set-Cookie"]
    assert inside.client.get("/").status_code == 303


def test_a_session_may_look_at_the_api_but_not_change_anything_there(inside: WebClient) -> None:
    ref = reported(inside, FAILED)
    assert inside.client.get("/api/jobs").status_code == 200
    assert inside.client.post(f"/api/jobs/{ref}/retry").status_code == 401


def test_who_follows_a_link_from_elsewhere_is_let_in_by_a_second_look(inside: WebClient) -> None:
    inside.client.delete_cookie("receiver")  # as a browser withholds a strict cookie
    answer = inside.client.get("/jobs?q=a%20fox", headers={"Sec-Fetch-Site": "cross-site"})
    assert (answer.status_code, answer.headers["Refresh"]) == (200, "0")
    assert 'href="/jobs?q=a%20fox"' in answer.text
    assert inside.client.get("/jobs", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 303


# Languages, errors.


@pytest.mark.parametrize(
    ("accepted", "chosen", "said"),
    [
        ("zh-CN,zh;q=0.9", "", "管理令牌"),
        ("de", "", "Admin token"),
        ("zh", "en", "Admin token"),
        ("en", "zh", "管理令牌"),
        ("*", "xx", "Admin token"),
    ],
)
def test_pages_speak_the_language_that_was_chosen_or_the_browsers(
    web: WebClient, accepted: str, chosen: str, said: str
) -> None:
    web.client.get(f"/preferences?language={chosen}")
    assert said in web.client.get("/login", headers={"Accept-Language": accepted}).text


def test_a_choice_leads_back_and_changes_only_what_can_be_chosen(web: WebClient) -> None:
    answer = web.client.get("/preferences?theme=dark&next=/login")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/login")
    assert 'data-theme="dark"' in web.client.get("/login").text
    web.client.get("/preferences?theme=%22%3E%3Cscript%3E")
    assert 'data-theme="dark"' in web.client.get("/login").text


def test_every_page_can_be_read_in_chinese(inside: WebClient) -> None:
    ref = archived(inside)
    for path in (*PAGES, f"/jobs/{ref}"):
        page = inside.client.get(path, headers={"Accept-Language": "zh"}).text
        assert ("已归档" in page, "adds up" in page) == (True, False), path


@pytest.mark.parametrize(
    "path", ["/nothing", "/jobs/", "/static/none", "/jobs/x/y/z", "/%00", "/é"]
)
def test_an_address_that_is_none_is_told_in_a_page(web: WebClient, path: str) -> None:
    answer = web.client.get(path)
    assert answer.status_code in {303, 404}
    if answer.status_code == 404:
        assert "There is nothing here" in answer.text


def test_a_wrong_method_is_told_with_the_right_ones(web: WebClient) -> None:
    answer = web.client.delete("/login")
    assert (answer.status_code, "takes no such request" in answer.text) == (405, True)
    assert "POST" in answer.headers["Allow"]
    told = web.client.delete("/api/jobs", headers=web.admin)
    assert (told.status_code, told.content_type, "GET" in told.headers["Allow"]) == (
        405,
        "application/problem+json",
        True,
    )
    lost = web.client.get("/api/nothing")
    assert (lost.status_code, lost.content_type) == (404, "application/problem+json")


def test_a_callback_that_is_lost_has_its_own_words(web: WebClient) -> None:
    for path in ("/callback/x/", "/callback/x/y"):
        assert web.client.post(path, data=b"{}").json == {"ok": False, "error": "no such callback"}


def test_a_ledger_that_is_away_is_told_in_a_page_that_says_when_to_come_again(
    inside: WebClient,
) -> None:
    path = inside.services.settings.ledger_path
    inside.services.database.close()
    path.rename(path.with_name("away"))
    path.mkdir()
    answer = inside.client.get("/jobs")
    assert (
        answer.status_code,
        answer.headers["Retry-After"],
        "cannot answer now" in answer.text,
    ) == (503, "5", True)
    assert str(path) not in answer.text
    path.rmdir()
    path.with_name("away").rename(path)
    assert inside.client.get("/jobs").status_code == 200


def test_a_mistake_of_ours_is_told_without_its_details(
    inside: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inside.services.browse, "arrivals", lambda *_: 1 / 0)
    answer = inside.client.get("/")
    assert (answer.status_code, "Something broke" in answer.text, "division" in answer.text) == (
        500,
        True,
        False,
    )


def test_static_files_may_be_kept_for_they_change_their_address(web: WebClient) -> None:
    address = re.search(r'href="(/static/app.css\?v=[0-9a-f]{12})"', web.client.get("/login").text)
    assert address
    with web.client.get(address[1]) as answer:
        assert (answer.status_code, answer.headers["Content-Type"]) == (
            200,
            "text/css; charset=utf-8",
        )
