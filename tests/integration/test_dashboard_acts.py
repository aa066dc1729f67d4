"""What the dashboard's forms do, without a browser; and that they do it for forms of ours alone."""

import re

import pytest
from dashboard_client import HOSTILE, archived, form_token, post, reported, submitted
from web_client import FAILED, SUCCEEDED, WebClient

from receiver.model import Decision, JobState


@pytest.mark.parametrize("given", [None, "", "x", "of another session"])
def test_a_form_that_is_not_ours_changes_nothing(inside: WebClient, given: str | None) -> None:
    ref = reported(inside, FAILED)
    if given == "of another session":
        given = form_token(inside)
        inside.client.post("/login", data={"token": inside.services.admin_token})
    for path in (f"/jobs/{ref}/retry", "/retry-all", "/submit"):
        answer = inside.client.post(path, data={} if given is None else {"csrf": given})
        assert (answer.status_code, "too old" in answer.text) == (403, True)
    assert inside.services.ledger.job(ref).state is JobState.FAILED


def test_a_part_of_a_page_may_show_its_proof_in_the_head(inside: WebClient) -> None:
    ref = reported(inside, FAILED)
    assert (
        inside.client.post(
            f"/jobs/{ref}/retry", headers={"X-CSRF-Token": form_token(inside)}
        ).status_code
        == 303
    )


def test_a_lost_job_is_tried_again_and_one_that_is_safe_is_not(inside: WebClient) -> None:
    lost, safe = reported(inside, FAILED), archived(inside)
    answer = post(inside, f"/jobs/{lost}/retry")
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/jobs/{lost}?said=retried")
    assert inside.services.ledger.job(lost).state is JobState.WAITING
    assert "on its way again" in inside.client.get(answer.headers["Location"]).text
    refused = post(inside, f"/jobs/{safe}/retry", next="https://evil.test")
    assert (refused.status_code, "nothing to retry" in refused.text, "evil" in refused.text) == (
        409,
        True,
        False,
    )
    assert post(inside, "/jobs/01JZ2Q7V3N0123456789ABCDEF/retry").status_code == 404


def test_what_waits_is_tried_now(inside: WebClient) -> None:
    ref = reported(inside, SUCCEEDED)
    (claimed,) = inside.services.ledger.claim_assets(1)
    later = inside.services.ledger.now() + 999
    inside.services.ledger.retry_asset(claimed, later, "not yet")
    assert inside.services.ledger.claim_assets(1) == []
    assert (
        post(inside, f"/jobs/{ref}/hurry", next="/danger").headers["Location"]
        == "/danger?said=hurried"
    )
    (again,) = inside.services.ledger.claim_assets(1)
    assert post(inside, f"/jobs/{ref}/hurry").status_code == 303
    assert inside.services.queries.assets([ref])[ref][0].claim == again.token, (
        "what is being worked on is left alone"
    )


def test_a_delivery_is_taken_in_again_if_it_is_one_of_the_job(inside: WebClient) -> None:
    ref, other = submitted(inside), reported(inside, FAILED)
    inside.callback(inside.services.tickets.sign(ref), b"{")
    (entry,) = inside.services.queries.delivery_log(ref)
    assert post(inside, f"/jobs/{other}/deliveries/{entry.id}/replay").status_code == 404
    answer = post(inside, f"/jobs/{ref}/deliveries/{entry.id}/replay")
    assert (answer.status_code, "still unreadable" in answer.text) == (409, True)
    (good,) = inside.services.queries.delivery_log(other)
    assert (
        post(inside, f"/jobs/{other}/deliveries/{good.id}/replay").headers["Location"]
        == f"/jobs/{other}?said=replayed"
    )


def going_through(web: WebClient, page: str) -> list[str]:
    """Press the button of a page that goes through many, until there is none; return what each step said."""
    said = []
    while fields := dict(
        re.findall(
            r'name="(\w+)" value="([^"]*)"', page.partition("<main")[2].partition("</main>")[0]
        )
    ):
        path = re.search(r'action="(/\w+-all)"', page)
        assert path
        page = web.client.post(path[1], data=fields).text
        said.append(
            re.sub(
                r"\s+",
                " ",
                re.sub(r"<[^>]+>", "", page.partition("<main")[2].partition("</main>")[0]),
            )
        )
    return said


def test_all_that_match_are_tried_again_in_steps_after_a_page_that_says_how_many(
    inside: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.web.dashboard.actions.STEP", 2)
    foxes = [reported(inside, {**FAILED, "id": f"task-{number}"}) for number in range(5)]
    gone = submitted(inside)
    inside.services.ledger.expire(gone, "no word, and no id to ask with")
    owl, safe = reported(inside, {**FAILED, "id": "owl"}, "an owl"), archived(inside)
    page = inside.client.get("/retry-all?q=fox").text
    assert "that match: 6" in page
    steps = going_through(inside, page)
    assert [
        "2 done, 0 could" in steps[0],
        "5 done, 0 could" in steps[2],
        "5 done, 1 could" in steps[-1],
    ] == [True, True, True]
    assert "All of them were gone through" in steps[-1]
    states = {ref: inside.services.ledger.job(ref).state for ref in (*foxes, gone, owl, safe)}
    assert states == {
        **dict.fromkeys(foxes, "waiting"),
        gone: "expired",
        owl: "failed",
        safe: "archived",
    }


@pytest.mark.parametrize("query", ["state=archived", "state=waiting", "q=nothing"])
def test_where_nothing_matches_there_is_nothing_to_do(inside: WebClient, query: str) -> None:
    archived(inside)
    page = inside.client.get(f"/retry-all?{query}").text
    assert ("There is nothing to do" in page, "Do it" in page) == (True, False)
    assert post(inside, "/retry-all", todo="archived").status_code == 400


def test_all_unreadable_deliveries_are_taken_in_again(
    inside: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.web.dashboard.actions.STEP", 2)
    ref = submitted(inside)
    for _ in range(3):
        inside.callback(inside.services.tickets.sign(ref), b"{")
    inside.services.database.write(
        lambda connection: connection.exec_driver_sql(
            'UPDATE deliveries SET body = \'{"id":"t","status":"running"}\' WHERE id = 1'
        )
    )
    page = inside.client.get("/replay-all").text
    assert "could not be read: 3" in page
    assert "1 done, 2 could" in going_through(inside, page)[-1]
    assert inside.verdicts(ref) == [Decision.PROGRESS, Decision.UNREADABLE, Decision.UNREADABLE]


def test_a_job_form_comes_back_filled_in_with_every_mistake_named(inside: WebClient) -> None:
    answer = post(inside, "/submit", prompt=HOSTILE, model="m", variants="99", mode="pigeon")
    assert (answer.status_code, "variants:" in answer.text, "mode:" in answer.text) == (
        400,
        True,
        True,
    )
    assert "&lt;script&gt;alert(1)" in answer.text
    missing = post(inside, "/submit", prompt="a fox", model="m", mode="webhook")
    assert (missing.status_code, "GRSAI_API_KEY" in missing.text, "PUBLIC_URL" in missing.text) == (
        409,
        True,
        True,
    )
    assert inside.services.queries.jobs() == []


def test_a_job_form_can_begin_with_another_job(inside: WebClient) -> None:
    assert (
        "a snow fox</textarea>"
        in inside.client.get(f"/submit?like={submitted(inside, 'a snow fox')}").text
    )


def test_a_form_too_large_is_refused(inside: WebClient) -> None:
    answer = inside.client.post("/submit", data={"csrf": "x", "prompt": "x" * (1024 * 1024 + 1)})
    assert (answer.status_code, "1.0 MB" in answer.text) == (413, True)
