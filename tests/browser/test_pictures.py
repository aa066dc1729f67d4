"""Pictures in large, in a browser: keys, swipes, zoom, video; and many pictures as a ZIP."""

import re
import zipfile
from typing import Any

import pytest
from installation import Installation
from playwright.sync_api import Page, expect
from viewer import PHONE, Viewer
from waiting import until

from receiver.settings import Settings
from submitter.submit import Submitter


@pytest.fixture(scope="package")
def swans(installation: Installation) -> list[str]:
    """Have three jobs about swans; return their refs, newest first."""
    refs = [installation.submit(f"a black swan, number {number}").ref for number in range(3)]
    installation.wait(*refs)
    return refs[::-1]


def loaded(page: Page, what: str) -> None:
    """Wait until the picture in the large view is loaded."""
    size = "[...document.querySelectorAll('#large')].map(one => one.complete && one.naturalWidth)"
    until(lambda: page.evaluate(f"{size}.some(width => width > 2)"), what=what)


def shown(page: Page, number: int) -> None:
    """Wait until a swan is shown and the page's script listens to keys and swipes."""
    expect(page.get_by_role("heading", name=f"a black swan, number {number}")).to_be_visible()
    page.wait_for_load_state("load")


def test_pictures_are_walked_through_with_keys_within_the_filter(
    page: Page, viewer: Viewer, swans: list[str]
) -> None:
    page.goto("/?q=black+swan")
    page.locator(".tile").nth(1).click()
    expect(page).to_have_url(f"{viewer.installation.url}/pictures/{swans[1]}/0?q=black+swan")
    loaded(page, "the preview")
    shown(page, 1)
    page.keyboard.press("ArrowLeft")
    shown(page, 2)
    expect(page.get_by_role("link", name="Previous")).to_have_count(0)
    for number in (1, 0):
        page.keyboard.press("ArrowRight")
        shown(page, number)
    expect(page.get_by_role("link", name="Next")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(page.locator(f"#picture-{swans[2]}")).to_be_visible()
    expect(page.locator(".tile")).to_have_count(3)


def test_a_picture_is_zoomed_and_its_prompt_copied(page: Page, swans: list[str]) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"/pictures/{swans[0]}/0")
    button = page.get_by_role("button", name="Zoom")
    expect(button).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("z")
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#stage")).to_have_class(re.compile("actual"))
    page.get_by_role("button", name="Copy the prompt").click()
    assert page.evaluate("navigator.clipboard.readText()") == "a black swan, number 2"
    page.get_by_role("link", name="Original").click()
    loaded(page, "the original")
    expect(page.locator("#large")).to_have_attribute("src", re.compile("^/api/jobs/"))


SWIPE = """dx => {
  const stage = document.getElementById("stage");
  const at = x => [new Touch({identifier: 1, target: stage, clientX: x, clientY: 200})];
  stage.dispatchEvent(new TouchEvent("touchstart", {touches: at(200), changedTouches: at(200)}));
  stage.dispatchEvent(new TouchEvent("touchend", {touches: [], changedTouches: at(200 + dx)}));
}"""


def test_a_swipe_shows_the_next_picture(viewer: Viewer, swans: list[str]) -> None:
    options: dict[str, Any] = {"has_touch": True, "viewport": PHONE}
    with viewer.context(**options) as context:
        page = context.new_page()
        page.goto(f"/pictures/{swans[1]}/0?q=black+swan")
        page.evaluate(SWIPE, -120)
        shown(page, 0)
        page.evaluate(SWIPE, 120)
        expect(page.get_by_role("heading", name="a black swan, number 1")).to_be_visible()


def test_a_video_is_loaded_in_parts_by_a_player_in_the_page(
    page: Page, installation: Installation
) -> None:
    with Submitter(Settings.load(installation.environ), check=False) as submitter:
        job = submitter.submit("a wave", model="sora-2", params={"sandbox": {"delay": 0}})
    installation.wait(job.ref)
    # The sandbox has no encoder for a video that a browser can decode.
    with page.expect_response(f"**/api/jobs/{job.ref}/assets/0") as answer:
        page.goto(f"/pictures/{job.ref}/0")
    assert (answer.value.status, answer.value.headers["content-type"]) == (206, "video/mp4")
    assert page.locator("video").evaluate("video => video.controls && video.poster !== ''")


def test_selected_pictures_are_downloaded_as_a_zip(page: Page, swans: list[str]) -> None:
    page.goto("/?q=black+swan")
    button = page.get_by_role("button", name="Download selected")
    expect(button).to_be_disabled()
    for ref in swans[:2]:
        page.locator(f"#pick-{ref}").check()
    expect(button).to_have_text(re.compile(r"Download selected \(2\)"))
    with page.expect_download() as download:
        button.click()
    with zipfile.ZipFile(download.value.path()) as zipped:
        names = {name[:26] for name in zipped.namelist()} - {"pictures.jsonl"}
    assert names == set(swans[:2])


def test_a_day_in_the_readers_zone_shows_its_pictures(viewer: Viewer, swans: list[str]) -> None:
    with viewer.context(timezone_id="Pacific/Kiritimati") as context:
        page = context.new_page()
        page.goto("/")
        expect(page.locator("#zone-help")).to_contain_text("Pacific/Kiritimati")
        today = page.evaluate("new Date().toLocaleDateString('sv')")
        page.get_by_label("Day", exact=True).fill(today)
        expect(page).to_have_url(re.compile(f"day={today}"))
        expect(page.locator(f"#picture-{swans[0]}")).to_be_visible()
        page.get_by_role("link", name="the day before").click()
        expect(page.get_by_role("heading", name="No pictures")).to_be_visible()
