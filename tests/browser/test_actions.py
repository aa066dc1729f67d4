"""The dashboard in a browser: log in, watch pictures arrive, search, retry and submit."""

import re
from pathlib import Path

import requests
from installation import Installation
from playwright.sync_api import Page, expect
from viewer import Viewer
from waiting import until


def return_to_page(page: Page) -> None:
    """Do what a browser does when a tab becomes visible: the page is refreshed at once."""
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


# Login.


def test_a_wrong_token_is_refused_and_the_right_one_is_valid_until_the_logout(
    viewer: Viewer,
) -> None:
    with viewer.without_session() as context:
        page = context.new_page()
        page.goto("/jobs?state=failed")
        expect(page.get_by_label("Admin token")).to_be_focused()
        page.keyboard.type("not the token")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("The token is wrong.")
        page.get_by_label("Admin token").fill(viewer.token)
        page.get_by_role("button", name="Log in").click()
        expect(page).to_have_url(f"{viewer.installation.url}/jobs?state=failed")
        (cookie,) = (one for one in context.cookies() if one["name"] != "zone")
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        names = [one.partition("=")[0] for one in page.evaluate("document.cookie").split("; ")]
        assert names == ["zone"], "scripts do not see the session"
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Admin token")).to_be_visible()
        page.go_back()
        expect(page.get_by_label("Admin token")).to_be_visible()
        assert "Strict" not in page.content()


def test_a_link_in_a_mail_leads_to_the_job_despite_the_strict_cookie(viewer: Viewer) -> None:
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


def test_a_session_that_ended_leads_to_the_login(
    own_page: Page, viewer: Viewer, complaints: list[str]
) -> None:
    with own_page.expect_request("**/api/stream"):
        own_page.goto("/")
    own_page.context.clear_cookies()
    return_to_page(own_page)
    expect(own_page.get_by_label("Admin token")).to_be_visible(timeout=15_000)
    assert own_page.url.startswith(f"{viewer.installation.url}/login")
    # The page can ask for its stream once more before it leaves; the browser notes the 401.
    assert all("401" in complaint for complaint in complaints)
    complaints.clear()


# Watching.


def test_new_pictures_appear_and_the_status_bar_counts_them(
    page: Page, installation: Installation, viewer: Viewer, screenshots: Path | None
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
    if screenshots is not None:
        page.screenshot(path=screenshots / "gallery-alive.png")


def test_events_reach_the_page_at_once(own_page: Page, installation: Installation) -> None:
    """By the stream: the regular refreshes are switched off here."""
    own_page.add_init_script("window.setInterval = () => 0")
    with own_page.expect_request("**/api/stream"):
        own_page.goto("/")
    installation.submit("a comet, shown at once")
    expect(own_page.get_by_role("link", name="a comet, shown at once")).to_be_visible(
        timeout=15_000
    )


def test_the_page_of_a_job_follows_its_progress(page: Page, installation: Installation) -> None:
    job = installation.submit("a slow snail", delay=1.5, progress=2)
    page.goto(f"/jobs/{job.ref}")
    expect(page.locator(".headline .badge")).to_contain_text("waiting")
    expect(page.locator(".headline .badge")).to_contain_text("archived", timeout=15_000)
    expect(page.locator(".timeline")).to_contain_text("Picture 0 archived")


def test_a_picture_at_risk_has_a_countdown(page: Page, viewer: Viewer) -> None:
    assert viewer.jobs
    page.goto("/at-risk")
    countdown = page.locator(".row", has_text="a picture that never comes").locator(
        "time.countdown"
    )
    expect(countdown).to_have_text(re.compile(r"00:2\d:\d\d"))
    before = countdown.inner_text()
    expect(countdown).not_to_have_text(before)
    expect(countdown).to_have_class(re.compile("late"))


def test_a_lost_connection_shows_a_banner_until_it_is_back(
    own_page: Page, complaints: list[str]
) -> None:
    own_page.goto("/")
    banner = own_page.get_by_role("alert")
    expect(banner).to_be_hidden()
    own_page.route("**/*", lambda route: route.abort())
    return_to_page(own_page)
    expect(banner).to_be_visible(timeout=15_000)
    own_page.unroute("**/*")
    return_to_page(own_page)
    expect(banner).to_be_hidden(timeout=15_000)
    assert complaints
    complaints.clear()  # the failed requests, as expected


# Searching.


def test_a_search_shows_results_while_typing(page: Page, viewer: Viewer) -> None:
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


# Actions.


def test_a_failed_job_is_retried(page: Page, viewer: Viewer) -> None:
    page.goto(f"/jobs/{viewer.jobs['a picture the provider will not draw']}")
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("status")).to_have_text("The job was reopened.")
    expect(page.locator(".timeline")).to_contain_text("poll", timeout=15_000)
    expect(page.locator(".headline .badge")).to_contain_text(
        "failed", timeout=15_000
    )  # the provider reports the failure again


def test_a_rejected_file_is_downloaded_and_accepted(page: Page, installation: Installation) -> None:
    job = installation.submit("a picture to accept", file={"mode": "wrong_length", "at": 0.6})
    installation.wait(job.ref)
    page.goto(f"/jobs/{job.ref}")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the rejected file").click()
    assert download.value.suggested_filename == f"{job.ref}-0-rejected.png"
    page.get_by_role("button", name="Accept as the picture").click()
    expect(page.get_by_role("status")).to_have_text("The file was accepted.")
    expect(page.locator(".headline .badge")).to_contain_text("archived")
    expect(page.get_by_role("heading", name="Accepted by an operator")).to_be_visible()


def test_a_delivery_is_replayed(page: Page, viewer: Viewer, complaints: list[str]) -> None:
    page.goto(f"/jobs/{viewer.jobs['two owls']}")
    entry = page.locator(".timeline li", has_text="decided the job")
    entry.get_by_text("Raw body").click()
    expect(entry.locator("pre")).to_contain_text('"succeeded"')
    entry.get_by_role("button", name="Replay").click()
    expect(page.get_by_role("status")).to_have_text("The delivery was processed again.")
    page.goto("/set-aside")
    page.get_by_role("button", name="Replay").first.click()
    expect(page.get_by_role("heading", name="This cannot be done")).to_be_visible()
    expect(page.locator("main")).to_contain_text("still unreadable")
    assert [complaint for complaint in complaints if "409" in complaint]
    complaints.clear()


def test_all_matching_jobs_are_retried(
    page: Page, installation: Installation, complaints: list[str]
) -> None:
    refs = [installation.submit(f"a moth number {number}", fail="error").ref for number in range(3)]
    installation.wait(*refs)
    page.goto("/jobs?q=a+moth+number&state=failed")
    page.get_by_role("link", name="Retry all matching jobs").click()
    expect(page.locator("main")).to_contain_text("Matching failed or expired jobs: 3")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("status")).to_have_text("3 done, 0 failed.")
    expect(page.locator("main")).to_contain_text("All were processed.")
    assert complaints == []


def test_a_job_is_submitted_with_the_form(page: Page) -> None:
    page.goto("/submit")
    page.get_by_label("Prompt").fill("a heron, from the form")
    page.get_by_label("Size").fill("1024x1024")
    page.get_by_role("button", name="Submit the job").click()
    expect(page.get_by_role("status")).to_have_text("The job was submitted.")
    expect(page.locator(".headline .badge")).to_contain_text("archived", timeout=15_000)


def test_a_key_is_copied(page: Page, viewer: Viewer) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    ref = viewer.jobs["a fox in the snow"]
    page.goto(f"/jobs/{ref}")
    button = page.locator("button[data-copy$='/0.png']")
    button.click()
    expect(button).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()").endswith(f"{ref}/0.png")


def test_a_picture_is_downloaded_not_opened(page: Page, viewer: Viewer) -> None:
    page.goto(f"/jobs/{viewer.jobs['a fox in the snow']}")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").first.click()
    assert download.value.suggested_filename.endswith("-0.png")


def test_an_unreadable_delivery_is_dismissed(page: Page, viewer: Viewer) -> None:
    ref = viewer.jobs["two owls"]
    with viewer.installation.services() as services:
        hook = f"{viewer.installation.url}/callback/{services.tickets.sign(ref)}"
    assert requests.post(hook, data=b"<html>", timeout=10).status_code == 400
    page.goto("/set-aside")
    row = page.locator(".row", has_text="delivery").first
    expect(row).to_contain_text("Why it cannot be read")
    shown = page.get_by_role("button", name="Dismiss").count()
    row.get_by_role("button", name="Dismiss").click()
    expect(page.get_by_role("status")).to_have_text("The delivery was dismissed.")
    expect(page.get_by_role("button", name="Dismiss")).to_have_count(shown - 1)


def test_the_list_of_jobs_follows_what_happens(page: Page, installation: Installation) -> None:
    page.goto("/jobs?q=otter")
    installation.submit("a playful otter")
    expect(page.locator(".row", has_text="a playful otter")).to_contain_text(
        "archived", timeout=15_000
    )
    expect(page.locator(".row .age").first).to_have_text(re.compile("now|ago"))


def test_a_batch_shows_what_failed_and_retries_it(page: Page, viewer: Viewer) -> None:
    page.goto(viewer.pages()["batch"])
    expect(page.locator("main")).to_contain_text("1 of 1 jobs have ended")
    page.get_by_role("link", name="Retry what failed").click()
    expect(page.locator("main")).to_contain_text("Matching failed or expired jobs: 1")


def test_a_file_is_added_to_a_new_job(page: Page) -> None:
    page.goto("/submit")
    page.set_input_files(
        "input[type=file]", {"name": "a.png", "mimeType": "image/png", "buffer": b"\x89PNG"}
    )
    expect(page.get_by_label("Reference pictures")).to_have_value("data:image/png;base64,iVBORw==")


# The keyboard.


def test_lists_are_walked_through_with_keys(page: Page, viewer: Viewer) -> None:
    assert viewer.jobs
    page.goto("/jobs")
    page.wait_for_load_state("load")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_hidden()
    for key, place in (("j", 0), ("j", 1), ("k", 0), ("k", 0)):
        page.keyboard.press(key)
        expect(page.locator(".row-title").nth(place)).to_be_focused()
    page.keyboard.press("o")
    expect(page.locator(".timeline")).to_be_visible()


PRESSED_AT_ONCE = """() => {
    const keys = document.getElementById("keys");
    keys.showModal();
    keys.close();
    const pressed = new KeyboardEvent("keydown", { key: "j", bubbles: true });
    document.activeElement.dispatchEvent(pressed);
}"""
REFRESHED = """() => {
    const list = document.getElementById("results");
    list.innerHTML = list.innerHTML;
}"""


def test_a_closed_dialog_keeps_neither_keys_nor_the_place_in_a_list(
    page: Page, viewer: Viewer
) -> None:
    assert viewer.jobs
    page.goto("/jobs")
    page.evaluate(PRESSED_AT_ONCE)
    expect(page.locator(".row-title").first).to_be_focused()
    page.keyboard.press("j")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    page.evaluate(REFRESHED)
    page.keyboard.press("Escape")
    expect(page.locator(".row-title").nth(1)).to_be_focused()


def test_everything_can_be_reached_with_the_keyboard(page: Page, viewer: Viewer) -> None:
    assert viewer.jobs
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(12):  # over the fields of the search
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.tile')"):
            break
    expect(page.locator(".tile").first).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", (
        "the focus is visible"
    )
    page.keyboard.press("Enter")
    expect(page.locator("#viewer")).to_be_visible()
    page.locator("#viewer").get_by_role("link", name="Job", exact=True).press("Enter")
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


def test_the_keyboard_focus_stays_when_pictures_arrive(
    page: Page, installation: Installation, viewer: Viewer
) -> None:
    ref = viewer.jobs["a fox in the snow"]
    page.goto("/")
    page.locator(f"#picture-{ref}").focus()
    installation.submit("a picture that pushes the others on")
    expect(page.get_by_role("link", name="a picture that pushes the others on")).to_be_visible(
        timeout=15_000
    )
    expect(page.locator(f"#picture-{ref}")).to_be_focused()
