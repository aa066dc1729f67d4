"""What an operator does in a browser: events, the state of the service, the first steps, costs."""

import re

from event_server import EventServer
from installation import Installation
from playwright.sync_api import Page, expect


def test_a_failing_destination_is_seen_tested_and_sent_to_again(
    page: Page, installation: Installation, event_server: EventServer
) -> None:
    event_server.status = 500
    installation.wait(installation.submit("a picture whose events are refused").ref)
    page.goto("/jobs")
    alarm = page.locator(".alarm", has_text="Event deliveries fail")
    expect(alarm).to_be_visible(timeout=20_000)
    alarm.click()
    card = page.locator(".destination").first
    expect(card).to_contain_text("answered 500")
    card.get_by_role("button", name="Send a test event").click()
    expect(page.get_by_role("alert").filter(has_text="did not accept")).to_contain_text("500")

    refused = len(event_server.received)
    event_server.status = 204
    card.get_by_role("button", name="Send a test event").click()
    expect(page.get_by_role("status").filter(has_text="accepted the test event")).to_be_visible()
    # A refused event may be sent again meanwhile.
    taken = [request.event["type"] for request in event_server.received[refused:]]
    assert "receiver.test" in taken
    card.get_by_role("button", name="Send what waits now").click()
    expect(page.get_by_role("status").first).to_have_text("What waits is being sent now.")
    expect(card).to_contain_text("all delivered", timeout=20_000)
    expect(alarm).to_be_hidden(timeout=20_000)


def test_the_service_page_shows_what_the_doctor_found_and_no_secret(
    page: Page, installation: Installation
) -> None:
    page.goto("/service")
    expect(page.locator(".check", has_text="Public URL")).to_contain_text(
        "leads to us", timeout=30_000
    )
    row = page.get_by_role("row", name=re.compile("GRSAI_API_KEY"))
    expect(row).to_contain_text("••••••")
    assert installation.environ["GRSAI_API_KEY"] not in page.content()


def test_the_first_steps_are_ticked_off_as_they_happen(
    page: Page, installation: Installation
) -> None:
    page.goto("/first-steps")
    installation.wait(installation.submit("the first picture of all").ref)
    expect(page.locator(".step.done")).to_have_count(5, timeout=20_000)
    expect(page.locator(".steps")).to_contain_text("All steps are done.")


def test_costs_and_charts_have_their_figures_as_text_too(
    page: Page, installation: Installation
) -> None:
    installation.wait(installation.submit("a picture that costs something").ref)
    page.goto("/costs")
    expect(page.locator(".facts", has_text="cost of all")).to_contain_text("USD")
    page.get_by_role("link", name="Over time").click()
    page.get_by_role("link", name="last hour").click()
    chart = page.locator(".columns", has_text="Jobs by their end")
    expect(chart.get_by_role("img", name="Jobs by their end")).to_be_visible()
    chart.get_by_text("As a table").click()
    expect(chart.get_by_role("table")).to_contain_text("archived")
