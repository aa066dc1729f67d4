"""Access to the dashboard, without a browser: login, session, language, and error pages."""

import re
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from dashboard_client import PAGES, archived, post, reported
from web_client import FAILED, WebClient, web_client

from receiver.web import auth
from receiver.web.rate_limit import RateLimiter

# Login and session.


@pytest.mark.parametrize("path", [*PAGES, "/jobs/x", "/thumbnails/x/0", "/jobs/x/deliveries/1"])
def test_without_a_session_every_page_leads_to_the_login(web: WebClient, path: str) -> None:
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
    ), "a fragment leads there too"


@pytest.mark.parametrize(
    "path",
    [
        "/jobs/x/retry",
        "/jobs/x/expedite",
        "/submit",
        "/retry-all",
        "/replay-all",
        "/logout",
        "/events/1/resend",
        "/events/1/dismiss",
        "/events/test",
        "/events/expedite",
    ],
)
def test_without_a_session_no_form_does_anything(web: WebClient, path: str) -> None:
    answer = web.client.post(path, data={"csrf_token": "x"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/login?next=/")


def test_a_login_leads_to_the_page_that_was_asked_for(web: WebClient) -> None:
    answer = web.client.post(
        "/login", data={"token": web.services.admin_token, "next": "/jobs?state=failed"}
    )
    assert answer.headers["Location"] == "/login?next=%2Fjobs%3Fstate%3Dfailed&welcome=1"
    again = web.client.get(answer.headers["Location"])
    assert (again.status_code, again.headers["Location"]) == (303, "/jobs?state=failed")
    assert web.client.get("/").status_code == 200


def test_a_browser_that_refuses_the_cookie_gets_an_explanation(web: WebClient) -> None:
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
def test_a_login_never_leads_to_another_site(web: WebClient, elsewhere: str) -> None:
    web.client.post("/login", data={"token": web.services.admin_token})
    for path in ("/login", "/preferences"):
        assert web.client.get(path, query_string={"next": elsewhere}).headers["Location"] == "/"


@pytest.mark.parametrize("token", ["", "x", "é", "\x00", "x" * 100_000])
def test_a_wrong_token_is_refused_and_not_echoed(web: WebClient, token: str) -> None:
    answer = web.client.post("/login", data={"token": token})
    assert (
        answer.status_code,
        "The token is wrong." in answer.text,
        "Set-Cookie" in answer.headers,
    ) == (403, True, False)
    assert len(answer.text) < 5000


def test_wrong_tokens_are_limited_at_the_login_and_the_right_one_always_works(
    web: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter = RateLimiter(20, burst=2, share=1, clock=lambda: 100.0)
    monkeypatch.setattr(auth, "_wrong_tokens", lambda: limiter)
    assert [web.client.post("/login", data={"token": "x"}).status_code for _ in range(3)] == [
        403,
        403,
        429,
    ]
    answer = web.client.post("/login", data={"token": "x"})
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "4")
    answer = web.client.post("/login", data={"token": web.services.admin_token})
    assert answer.status_code == 303


def test_a_rate_limiter_says_how_long_to_wait_for_the_next_attempt() -> None:
    now = [0.0]
    limiter = RateLimiter(20, burst=2, share=1, clock=lambda: now[0])

    def delays(count: int) -> list[float]:
        return [limiter.delay(None) for _ in range(count)]

    assert delays(3) == [0, 0, 3]
    now[0] += 1
    assert delays(1) == [pytest.approx(2)]
    now[0] += 2
    assert delays(2) == [0, 3]
    now[0] += 999
    assert delays(3) == [0, 0, 3]


@pytest.mark.parametrize(
    ("public_url", "name", "secure"),
    [
        ("https://pictures.test", "__Host-receiver", True),
        ("http://127.0.0.1:8787", "receiver", False),
    ],
)
def test_the_cookie_is_bound_to_this_site_and_hidden_from_scripts(
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
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(given)
        (expires,) = (parsedate_to_datetime(part[8:]) for part in given if part[:8] == "Expires=")
        assert abs(expires.timestamp() - time.time() - 12 * 3600) < 60
        assert ("Secure" in given, "Domain" in cookie) == (secure, False)
        assert web.services.admin_token not in cookie


def test_a_cookie_is_invalid_after_12_hours_after_any_change_and_with_another_token(
    logged_in: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    cookie = logged_in.client.get_cookie("receiver")
    assert cookie is not None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + auth.LIFETIME - 10)
    assert logged_in.client.get("/").status_code == 200
    monkeypatch.setattr(time, "time", lambda: now + auth.LIFETIME + 10)
    assert logged_in.client.get("/").status_code == 303
    monkeypatch.undo()
    # Not its last character: some bits of that one mean nothing in base64.
    content, _, signature = cookie.value.rpartition(".")
    changed = ("A" if signature[0] != "A" else "B") + signature[1:]
    logged_in.client.set_cookie("receiver", f"{content}.{changed}")
    assert logged_in.client.get("/").status_code == 303
    logged_in.client.set_cookie("receiver", cookie.value)
    assert logged_in.client.get("/").status_code == 200
    logged_in.services.__dict__["admin_token"] = "another"
    assert logged_in.client.get("/").status_code == 303


def test_a_logout_ends_the_session_and_needs_a_csrf_token(logged_in: WebClient) -> None:
    assert logged_in.client.post("/logout").status_code == 403
    answer = post(logged_in, "/logout")
    assert "receiver=;" in answer.headers["Set-Cookie"]
    assert logged_in.client.get("/").status_code == 303


def test_a_logout_ends_the_session_on_the_server_in_every_process(logged_in: WebClient) -> None:
    cookie = logged_in.client.get_cookie("receiver")
    other = WebClient(logged_in.services)  # another process, another browser with the same cookie
    other.client.set_cookie("receiver", cookie.value)
    assert other.client.get("/").status_code == other.client.get("/api/jobs").status_code == 200
    post(logged_in, "/logout")
    assert other.client.get("/").status_code == 303
    assert other.client.get("/api/jobs").status_code == 401
    assert "detail" not in other.client.get("/status").json["checks"]["ledger"]
    other.client.post("/login", data={"token": other.services.admin_token})
    assert other.client.get("/").status_code == 200
    other.client.set_cookie("receiver", cookie.value)
    assert other.client.get("/").status_code == 303, "a later login does not bring it back"


def test_a_session_may_read_the_api_but_not_write(logged_in: WebClient) -> None:
    ref = reported(logged_in, FAILED)
    assert logged_in.client.get("/api/jobs").status_code == 200
    assert logged_in.client.post(f"/api/jobs/{ref}/retry").status_code == 401


def test_a_link_from_another_site_works_after_a_reload(logged_in: WebClient) -> None:
    logged_in.client.delete_cookie("receiver")  # as a browser withholds a SameSite=Strict cookie
    answer = logged_in.client.get("/jobs?q=a%20fox", headers={"Sec-Fetch-Site": "cross-site"})
    assert (answer.status_code, answer.headers["Refresh"]) == (200, "0")
    assert 'href="/jobs?q=a%20fox"' in answer.text
    assert (
        logged_in.client.get("/jobs", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 303
    )


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
def test_a_page_has_the_chosen_language_or_the_browsers(
    web: WebClient, accepted: str, chosen: str, said: str
) -> None:
    web.client.get(f"/preferences?language={chosen}")
    assert said in web.client.get("/login", headers={"Accept-Language": accepted}).text


def test_a_preference_is_remembered_and_an_unknown_value_is_ignored(web: WebClient) -> None:
    answer = web.client.get("/preferences?theme=dark&next=/login")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/login")
    assert 'data-theme="dark"' in web.client.get("/login").text
    web.client.get("/preferences?theme=%22%3E%3Cscript%3E")
    assert 'data-theme="dark"' in web.client.get("/login").text


def test_every_page_exists_in_chinese(logged_in: WebClient) -> None:
    ref = archived(logged_in)
    for path in (*PAGES, f"/jobs/{ref}"):
        page = logged_in.client.get(path, headers={"Accept-Language": "zh"}).text
        assert ("已归档" in page, "adds up" in page) == (True, False), path


@pytest.mark.parametrize(
    "path", ["/nothing", "/jobs/", "/static/none", "/jobs/x/y/z", "/%00", "/é"]
)
def test_an_unknown_address_gets_an_error_page(web: WebClient, path: str) -> None:
    answer = web.client.get(path)
    assert answer.status_code in {303, 404}
    if answer.status_code == 404:
        assert "Page not found" in answer.text


def test_a_wrong_method_gets_an_error_with_the_allowed_ones(web: WebClient) -> None:
    answer = web.client.delete("/login")
    assert (answer.status_code, "Method not allowed" in answer.text) == (405, True)
    assert "POST" in answer.headers["Allow"]
    refused = web.client.delete("/api/jobs", headers=web.admin)
    assert (refused.status_code, refused.content_type, "GET" in refused.headers["Allow"]) == (
        405,
        "application/problem+json",
        True,
    )
    missing = web.client.get("/api/nothing")
    assert (missing.status_code, missing.content_type) == (404, "application/problem+json")


def test_an_unknown_callback_path_gets_the_callbacks_own_error(web: WebClient) -> None:
    for path in ("/callback/x/", "/callback/x/y"):
        assert web.client.post(path, data=b"{}").json == {"ok": False, "error": "no such callback"}


def test_an_unavailable_ledger_gets_an_error_page_with_retry_after(
    logged_in: WebClient,
) -> None:
    path = logged_in.services.settings.ledger_path
    logged_in.services.database.close()
    path.rename(path.with_name("away"))
    path.mkdir()
    answer = logged_in.client.get("/jobs")
    assert (
        answer.status_code,
        answer.headers["Retry-After"],
        "unavailable now" in answer.text,
    ) == (503, "5", True)
    assert str(path) not in answer.text
    path.rmdir()
    path.with_name("away").rename(path)
    assert logged_in.client.get("/jobs").status_code == 200


@pytest.mark.parametrize(
    ("page", "next_page"),
    [
        ("http://localhost/jobs?state=failed", "/jobs?state=failed"),
        ("http://localhost/pictures/X/0#top", "/pictures/X/0"),
        ("https://evil.test/jobs", "/"),
        ("http://localhost//evil.test", "/"),
        ("http://localhost/\\evil.test", "/"),
        ("nonsense", "/"),
        ("http://[", "/"),
        ("", "/"),
    ],
)
def test_a_lost_session_leads_back_to_the_page_that_the_reader_was_on(
    web: WebClient, page: str, next_page: str
) -> None:
    wanted = f"/login?next={quote(next_page)}"
    part = {"HX-Request": "true", "HX-Current-URL": page}
    target = web.client.get("/status-bar", headers=part).headers["HX-Redirect"]
    assert unquote(target) == unquote(wanted)
    answer = web.client.post("/jobs/X/retry", headers={"Referer": page})
    assert (answer.status_code, unquote(answer.headers["Location"])) == (303, unquote(wanted))


def test_a_bug_gets_an_error_page_without_details(
    logged_in: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logged_in.services.pictures, "newest", lambda *_: 1 / 0)
    answer = logged_in.client.get("/")
    assert (
        answer.status_code,
        "Something went wrong" in answer.text,
        "division" in answer.text,
    ) == (
        500,
        True,
        False,
    )


def test_the_address_of_a_static_file_has_its_fingerprint(web: WebClient) -> None:
    address = re.search(r'href="(/static/app.css\?v=[0-9a-f]{12})"', web.client.get("/login").text)
    assert address
    with web.client.get(address[1]) as answer:
        assert (answer.status_code, answer.headers["Content-Type"]) == (
            200,
            "text/css; charset=utf-8",
        )
