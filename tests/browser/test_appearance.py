"""The pages in a browser: themes, phones, languages, accessibility, and without scripts."""

import re
from collections.abc import Callable
from typing import Any, Literal

import pytest
from axe_playwright_python.base import AXE_SCRIPT  # type: ignore[import-untyped]  # the package has no types
from playwright.sync_api import Page, expect
from viewer import PHONE, Viewer
from waiting import until

Picture = Callable[[Page, str], None]

KINDS = [
    "gallery",
    "picture",
    "jobs",
    "batches",
    "batch",
    "nothing found",
    "job",
    "failed job",
    "rejected file",
    "job under way",
    "delivery",
    "at risk",
    "set aside",
    "compare",
    "charts",
    "costs",
    "events",
    "service",
    "first steps",
    "API reference",
    "new job",
    "retry many",
    "read again many",
    "invariants",
]
# The rules that depend on the theme: only its colours differ.
COLOURS = ("color-contrast", "link-in-text-block")
SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
THEMES: list[Literal["light", "dark"]] = ["light", "dark"]


def settled(page: Page) -> None:
    """Wait until all visible thumbnails and the fonts are loaded."""
    loaded = (
        "[...document.images].filter(i => i.getBoundingClientRect().top < innerHeight)"
        ".every(i => i.complete && i.naturalWidth > 2)"
    )
    # Not wait_for_function: the Content-Security-Policy forbids its eval.
    until(lambda: page.evaluate(loaded), what="that every visible picture is loaded")
    page.evaluate("document.fonts.ready")


def violations(page: Page, *rules: str, part: str = "html") -> list[str]:
    """Return what axe finds wrong with a part of a page, with these rules or with all."""
    options = {"runOnly": list(rules)} if rules else {"resultTypes": ["violations"]}
    if page.evaluate("typeof axe") == "undefined":  # half a megabyte of script
        page.evaluate(AXE_SCRIPT)
    run = "([part, options]) => axe.run(part, options).then(found => found.violations)"
    found: Any = page.evaluate(run, [part, options])
    return [
        f"{item['id']}: {node['html']} {node.get('failureSummary')}"
        for item in found
        for node in item["nodes"]
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_accessible_in_both_themes_and_on_a_phone(
    page: Page, viewer: Viewer, kind: str, picture: Picture
) -> None:
    page.goto(viewer.pages()[kind])
    assert page.evaluate("document.contentType") == "text/html"
    if kind == "charts":
        page.locator("summary").evaluate_all("all => all.forEach(one => one.click())")
    settled(page)
    assert violations(page) == []
    picture(page, f"{kind.replace(' ', '-')}-light-desktop")
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size(PHONE)
    settled(page)
    assert page.evaluate(SIDEWAYS) == 0
    # The dozens of sections of the API reference have the same few elements.
    part = "main section:nth-of-type(5n)" if kind == "API reference" else "html"
    assert violations(page, *(COLOURS if kind != "job" else ()), part=part) == []
    picture(page, f"{kind.replace(' ', '-')}-dark-phone")


def test_every_kind_of_page_is_tested(viewer: Viewer) -> None:
    assert list(viewer.pages()) == KINDS


@pytest.mark.parametrize("theme", THEMES)
def test_login_and_error_pages_are_accessible(
    viewer: Viewer, theme: Literal["light", "dark"], picture: Picture
) -> None:
    with viewer.without_session(color_scheme=theme, viewport=PHONE) as context:
        page = context.new_page()
        for name, path in {"login": "/login", "lost": "/no/such/page"}.items():
            page.goto(path)
            assert violations(page) == []
            picture(page, f"{name}-{theme}-phone")


def test_the_theme_can_differ_from_the_systems(own_page: Page, viewer: Viewer) -> None:
    own_page.emulate_media(color_scheme="light")
    own_page.goto("/jobs")
    body, ground = own_page.locator("body"), "background-color"
    expect(body).not_to_have_css(ground, "rgba(0, 0, 0, 0)")
    before = body.evaluate("body => getComputedStyle(body).backgroundColor")
    own_page.get_by_role("link", name="dark", exact=True).click()
    expect(own_page).to_have_url(f"{viewer.installation.url}/jobs")
    expect(body).not_to_have_css(ground, before)
    own_page.get_by_role("link", name="system").click()
    expect(body).to_have_css(ground, before)


def test_the_pages_can_be_shown_in_chinese(
    own_page: Page, viewer: Viewer, picture: Picture
) -> None:
    own_page.goto("/")
    own_page.get_by_role("link", name="中文").click()
    expect(own_page.get_by_role("heading", name="图库")).to_be_visible()
    assert own_page.evaluate("document.documentElement.lang") == "zh"
    own_page.set_viewport_size(PHONE)
    for kind, path in viewer.pages().items():
        own_page.goto(path)
        assert own_page.evaluate(SIDEWAYS) == 0, kind
    own_page.goto("/jobs")
    expect(own_page.get_by_role("navigation", name="页面").get_by_role("link")).to_have_text(
        ["图库", "任务", "告急", "搁置", "事件", "对比", "服务"]
    )
    picture(own_page, "jobs-chinese-phone")
    own_page.get_by_role("link", name="English").click()
    expect(own_page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_comparison_fits_a_laptop(own_page: Page, viewer: Viewer, language: str) -> None:
    assert viewer.jobs
    own_page.goto(f"/preferences?language={language}&next=/compare")
    # The widest figures that occur; a real installation has them after a while.
    fill = """cells => cells.forEach(cell => cell.querySelectorAll("span").forEach(
        span => { span.textContent = "59 min 59 s"; }))"""
    own_page.locator(".compared td").evaluate_all(fill)
    own_page.locator(".compared tbody th").evaluate_all(
        "cells => cells.forEach(cell => { cell.textContent = 'gemini-3-pro-image-preview-4k'; })"
    )
    spare = own_page.locator(".scroll").evaluate(
        "region => region.clientWidth - region.scrollWidth"
    )
    assert spare >= 0


def test_a_german_browser_gets_english(viewer: Viewer) -> None:
    with viewer.without_session(locale="de-DE") as context:
        page = context.new_page()
        page.goto("/login")
        expect(page.get_by_role("button", name="Log in")).to_be_visible()


def test_times_are_in_the_readers_time_zone(viewer: Viewer) -> None:
    refs = viewer.jobs
    shown = {}
    for zone in ("Asia/Shanghai", "America/New_York"):
        with viewer.context(timezone_id=zone) as context:
            page = context.new_page()
            page.goto(f"/jobs/{refs['a fox in the snow']}")
            time = page.locator(".facts time").first
            expect(time).to_have_attribute("title", re.compile("UTC$"))
            shown[zone] = time.inner_text()
    assert len(set(shown.values())) == 2, shown


def test_everything_works_without_a_script(viewer: Viewer) -> None:
    refs = viewer.jobs
    with viewer.context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto("/jobs")
        page.get_by_label("Search", exact=True).fill("fox")
        page.get_by_role("button", name="Search").click()
        expect(page.locator(".row")).to_have_count(1)
        page.get_by_role("link", name="a fox in the snow").click()
        expect(page.get_by_role("heading", name="a fox in the snow")).to_be_visible()
        page.locator("details summary").first.click()
        page.get_by_role("link", name="Loading").first.click()
        expect(page.locator("pre")).to_contain_text("progress")
        page.goto(f"/jobs/{refs['a picture that never comes']}")
        page.get_by_role("button", name="Try now").click()
        expect(page.get_by_role("status")).to_contain_text("due now")
