"""What somebody does with the dashboard: come in, watch pictures arrive, search, and act on what went wrong."""

import re
from pathlib import Path

from installation import Installation
from playwright.sync_api import Page, expect
from viewer import Viewer
from waiting import until


def look_back(page: Page) -> None:
    """Do what a browser does when somebody comes back to a page: it is looked after at once, not only some seconds later."""
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


# Coming in.


def test_a_wrong_token_is_told_and_a_right_one_lets_in_until_one_logs_out(viewer: Viewer) -> None:
    with viewer.stranger() as context:
        page = context.new_page()
        page.goto("/jobs?state=failed")
        expect(page.get_by_label("Admin token")).to_be_focused()
        page.keyboard.type("not the token")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("That is not the token.")
        page.get_by_label("Admin token").fill(viewer.token)
        page.get_by_role("button", name="Log in").click()
        expect(page).to_have_url(f"{viewer.installation.url}/jobs?state=failed")
        (cookie,) = context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Admin token")).to_be_visible()
        page.go_back()
        expect(page.get_by_label("Admin token")).to_be_visible()
        assert "Strict" not in page.content()


def test_a_link_in_a_mail_leads_to_the_job_in_spite_of_the_strict_cookie(viewer: Viewer) -> None:
    ref = viewer.jobs["a fox in the snow"]
    with viewer.context() as context:
        page = context.new_page()
        page.route(
            "https://mail.test/",
            lambda route: route.fulfill(
                body=f'<a href="{viewer.installation.url}/jobs/{ref}">look</a>'
            ),
        )
        page.goto("https://mail.test/")
        page.get_by_role("link").click()
        expect(page.get_by_role("heading", name="a fox in the snow")).to_be_visible()


def test_a_session_that_ended_leads_to_the_login(page: Page, viewer: Viewer) -> None:
    with page.expect_request("**/api/stream"):
        page.goto("/")
    page.context.clear_cookies()
    look_back(page)
    expect(page.get_by_label("Admin token")).to_be_visible(timeout=15_000)
    assert page.url.startswith(f"{viewer.installation.url}/login")


# Watching.


def test_pictures_appear_as_they_arrive_and_the_strip_counts_them(
    page: Page, installation: Installation, viewer: Viewer, screenshots: Path
) -> None:
    assert viewer.jobs
    page.goto("/")
    submitted = page.locator(".equation a b").first
    before = int(submitted.inner_text())
    installation.submit("a lighthouse that was not there before")
    expect(page.get_by_role("link", name="a lighthouse that was not there before")).to_be_visible(
        timeout=15_000
    )
    expect(submitted).to_have_text(str(before + 1))
    picture = page.get_by_role("img", name="a lighthouse that was not there before")
    until(
        lambda: picture.evaluate("image => image.complete && image.naturalWidth > 2"),
        what="the thumbnail",
    )
    page.screenshot(path=screenshots / "gallery-alive.png")


def test_events_reach_the_page_at_once(page: Page, installation: Installation) -> None:
    """By the stream, not by the looks every few seconds: these are switched off here."""
    page.add_init_script("window.setInterval = () => 0")
    with page.expect_request("**/api/stream"):
        page.goto("/")
    installation.submit("a comet, told of at once")
    expect(page.get_by_role("link", name="a comet, told of at once")).to_be_visible(timeout=15_000)


def test_a_job_moves_on_before_ones_eyes(page: Page, installation: Installation) -> None:
    job = installation.submit("a slow snail", delay=1.5, progress=2)
    page.goto(f"/jobs/{job.ref}")
    expect(page.locator(".headline .badge")).to_contain_text("waiting")
    expect(page.locator(".headline .badge")).to_contain_text("archived", timeout=15_000)
    expect(page.locator(".timeline")).to_contain_text("Picture 0 is safe")


def test_what_is_in_danger_counts_down(page: Page, viewer: Viewer) -> None:
    assert viewer.jobs
    page.goto("/danger")
    countdown = page.locator(".row", has_text="a picture that never comes").locator(
        "time.countdown"
    )
    expect(countdown).to_have_text(re.compile(r"00:2\d:\d\d"))
    before = countdown.inner_text()
    expect(countdown).not_to_have_text(before)
    expect(countdown).to_have_class(re.compile("late"))


def test_a_lost_connection_is_told_and_untold(page: Page, complaints: list[str]) -> None:
    page.goto("/")
    banner = page.get_by_role("alert")
    expect(banner).to_be_hidden()
    page.route("**/*", lambda route: route.abort())
    look_back(page)
    expect(banner).to_be_visible(timeout=15_000)
    page.unroute("**/*")
    look_back(page)
    expect(banner).to_be_hidden(timeout=15_000)
    assert complaints
    complaints.clear()  # of the connection, as it must


# Searching.


def test_a_search_answers_as_one_types(page: Page, viewer: Viewer) -> None:
    assert viewer.jobs
    page.goto("/jobs")
    page.keyboard.press("/")
    search = page.get_by_label("Search", exact=True)
    expect(search).to_be_focused()
    page.keyboard.type("two owls")
    expect(page.locator(".row")).to_have_count(1)
    expect(page).to_have_url(re.compile(r"/jobs\?q=two\+owls|/jobs\?q=two%20owls"))
    expect(search).to_be_focused()
    page.get_by_label("State").select_option("failed")
    expect(page.get_by_role("heading", name="No jobs")).to_be_visible()
    page.reload()
    expect(search).to_have_value("two owls")
    page.get_by_role("link", name="Clear").click()
    expect(page.get_by_role("link", name="two owls")).to_be_visible()
    search.fill(viewer.jobs["a fox in the snow"])
    expect(page.locator(".row")).to_have_count(1)


# Acting.


def test_a_failed_job_is_tried_again(page: Page, viewer: Viewer) -> None:
    page.goto(f"/jobs/{viewer.jobs['a picture the provider will not draw']}")
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("status")).to_have_text("The job is on its way again.")
    expect(page.locator(".timeline")).to_contain_text("poll", timeout=15_000)
    expect(page.locator(".headline .badge")).to_contain_text(
        "failed", timeout=15_000
    )  # the provider says so again


def test_a_delivery_is_taken_in_again(page: Page, viewer: Viewer, complaints: list[str]) -> None:
    page.goto(f"/jobs/{viewer.jobs['two owls']}")
    entry = page.locator(".timeline li", has_text="decided the job")
    entry.get_by_text("Raw body").click()
    expect(entry.locator("pre")).to_contain_text('"succeeded"')
    entry.get_by_role("button", name="Replay").click()
    expect(page.get_by_role("status")).to_have_text("The delivery was taken in again.")
    page.goto("/set-aside")
    page.get_by_role("button", name="Replay").first.click()
    expect(page.get_by_role("heading", name="That cannot be done")).to_be_visible()
    expect(page.locator("main")).to_contain_text("still unreadable")
    assert [complaint for complaint in complaints if "409" in complaint]
    complaints.clear()


def test_all_that_match_are_tried_again(
    page: Page, installation: Installation, complaints: list[str]
) -> None:
    refs = [installation.submit(f"a moth number {number}", fail="error").ref for number in range(3)]
    installation.wait(*refs)
    page.goto("/jobs?q=a+moth+number&state=failed")
    page.get_by_role("link", name="Retry all that match").click()
    expect(page.locator("main")).to_contain_text("Failed or expired jobs that match: 3")
    page.get_by_role("button", name="Do it").click()
    expect(page.get_by_role("status")).to_have_text("3 done, 0 could not be helped.")
    expect(page.locator("main")).to_contain_text("All of them were gone through.")
    assert complaints == []


def test_a_job_is_posted_from_a_form(page: Page) -> None:
    page.goto("/submit")
    page.get_by_label("Prompt").fill("a heron, posted by hand")
    page.get_by_label("Size").fill("64x64")
    page.get_by_role("button", name="Post the job").click()
    expect(page.get_by_role("status")).to_have_text("The job was posted.")
    expect(page.locator(".headline .badge")).to_contain_text("archived", timeout=15_000)


def test_a_key_is_copied(page: Page, viewer: Viewer) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    ref = viewer.jobs["a fox in the snow"]
    page.goto(f"/jobs/{ref}")
    button = page.locator("button[data-copy$='/0.png']")
    button.click()
    expect(button).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()").endswith(f"{ref}/0.png")


def test_a_picture_is_saved_not_shown(page: Page, viewer: Viewer) -> None:
    page.goto(f"/jobs/{viewer.jobs['a fox in the snow']}")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").first.click()
    assert download.value.suggested_filename.endswith("-0.png")


# Without a mouse.


def test_everything_is_reached_by_the_keyboard_alone(page: Page, viewer: Viewer) -> None:
    assert viewer.jobs
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.locator(".tile").first).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", (
        "one sees where one is"
    )
    page.keyboard.press("Enter")
    expect(page.locator(".timeline")).to_be_visible()
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.textContent.trim()"))
    assert {
        "Gallery",
        "Jobs",
        "New job",
        "Copy",
        "Download",
        "Raw body",
        "Replay",
        "Log out",
    } <= reached


def test_the_place_of_the_keyboard_stays_when_pictures_arrive(
    page: Page, installation: Installation, viewer: Viewer
) -> None:
    ref = viewer.jobs["a fox in the snow"]
    page.goto("/")
    page.locator(f".tile[href='/jobs/{ref}']").focus()
    installation.submit("a picture that pushes the others on")
    expect(page.get_by_role("link", name="a picture that pushes the others on")).to_be_visible(
        timeout=15_000
    )
    expect(page.locator(f".tile[href='/jobs/{ref}']")).to_be_focused()
