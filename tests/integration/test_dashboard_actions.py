"""The dashboard's forms, without a browser: what they do, and that they need a CSRF token."""

import re

import pytest
from dashboard_client import HOSTILE, archived, form_token, post, reported, submitted
from other_providers import OTHERS
from sqlalchemy import update
from web_client import FAILED, SUCCEEDED, WebClient

from receiver.errors import ReceiverError
from receiver.jobs.request import GrsaiRequest
from receiver.ledger.tables import deliveries
from receiver.model import Decision, JobState, Provider


@pytest.mark.parametrize("given", [None, "", "x", "of another session"])
def test_a_form_without_the_sessions_csrf_token_changes_nothing(
    logged_in: WebClient, given: str | None
) -> None:
    ref = reported(logged_in, FAILED)
    if given == "of another session":
        given = form_token(logged_in)
        logged_in.client.post("/login", data={"token": logged_in.services.admin_token})
    for path in (f"/jobs/{ref}/retry", "/retry-all", "/submit"):
        answer = logged_in.client.post(path, data={} if given is None else {"csrf_token": given})
        assert (answer.status_code, "too old" in answer.text) == (403, True)
    assert logged_in.services.jobs.get(ref).state is JobState.FAILED


def test_the_csrf_token_may_be_in_a_header(logged_in: WebClient) -> None:
    ref = reported(logged_in, FAILED)
    assert (
        logged_in.client.post(
            f"/jobs/{ref}/retry", headers={"X-CSRF-Token": form_token(logged_in)}
        ).status_code
        == 303
    )


def test_a_failed_job_is_retried_and_an_archived_one_is_not(logged_in: WebClient) -> None:
    lost, safe = reported(logged_in, FAILED), archived(logged_in)
    answer = post(logged_in, f"/jobs/{lost}/retry")
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/jobs/{lost}?notice=retried")
    assert logged_in.services.jobs.get(lost).state is JobState.WAITING
    assert "was reopened" in logged_in.client.get(answer.headers["Location"]).text
    refused = post(logged_in, f"/jobs/{safe}/retry", next="https://evil.test")
    assert (refused.status_code, "nothing to retry" in refused.text, "evil" in refused.text) == (
        409,
        True,
        False,
    )
    assert post(logged_in, "/jobs/01JZ2Q7V3N0123456789ABCDEF/retry").status_code == 404


def test_try_now_makes_waiting_work_due(logged_in: WebClient) -> None:
    ref = reported(logged_in, SUCCEEDED)
    (claimed,) = logged_in.services.assets.claim(1)
    later = logged_in.services.now() + 999
    logged_in.services.assets.retry(claimed, later, "not yet")
    assert logged_in.services.assets.claim(1) == []
    assert (
        post(logged_in, f"/jobs/{ref}/expedite", next="/at-risk").headers["Location"]
        == "/at-risk?notice=expedited"
    )
    (again,) = logged_in.services.assets.claim(1)
    assert post(logged_in, f"/jobs/{ref}/expedite").status_code == 303
    assert logged_in.services.queries.assets([ref])[ref][0].claim == again.token, (
        "claimed work is left alone"
    )


def test_a_delivery_is_replayed_if_it_belongs_to_the_job(logged_in: WebClient) -> None:
    ref, other = submitted(logged_in), reported(logged_in, FAILED)
    logged_in.callback(logged_in.services.tickets.sign(ref), b"{")
    (entry,) = logged_in.services.queries.delivery_log(ref)
    assert post(logged_in, f"/jobs/{other}/deliveries/{entry.id}/replay").status_code == 404
    answer = post(logged_in, f"/jobs/{ref}/deliveries/{entry.id}/replay")
    assert (answer.status_code, "still unreadable" in answer.text) == (409, True)
    (good,) = logged_in.services.queries.delivery_log(other)
    assert (
        post(logged_in, f"/jobs/{other}/deliveries/{good.id}/replay").headers["Location"]
        == f"/jobs/{other}?notice=replayed"
    )


def run_all_steps(web: WebClient, page: str) -> list[str]:
    """Submit the form of a bulk page until there is none; return the text of each step."""
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


def test_all_matching_jobs_are_retried_in_steps_after_a_confirmation(
    logged_in: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.web.dashboard.actions.STEP", 2)
    foxes = [reported(logged_in, {**FAILED, "id": f"task-{number}"}) for number in range(5)]
    gone = submitted(logged_in)
    logged_in.services.jobs.expire(gone, "no word, and no id to ask with")
    owl, safe = reported(logged_in, {**FAILED, "id": "owl"}, "an owl"), archived(logged_in)
    page = logged_in.client.get("/retry-all?q=fox").text
    assert "expired jobs: 6" in page
    steps = run_all_steps(logged_in, page)
    assert [
        "2 done, 0 failed" in steps[0],
        "5 done, 0 failed" in steps[2],
        "5 done, 1 failed" in steps[-1],
    ] == [True, True, True]
    assert "All were processed" in steps[-1]
    states = {ref: logged_in.services.jobs.get(ref).state for ref in (*foxes, gone, owl, safe)}
    assert states == {
        **dict.fromkeys(foxes, "waiting"),
        gone: "expired",
        owl: "failed",
        safe: "archived",
    }


@pytest.mark.parametrize("query", ["state=archived", "state=waiting", "q=nothing"])
def test_a_bulk_retry_without_matches_has_nothing_to_do(logged_in: WebClient, query: str) -> None:
    archived(logged_in)
    page = logged_in.client.get(f"/retry-all?{query}").text
    assert ("There is nothing to do" in page, "Start" in page) == (True, False)
    assert post(logged_in, "/retry-all", todo="archived").status_code == 400


def test_all_unreadable_deliveries_are_replayed(
    logged_in: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.web.dashboard.actions.STEP", 2)
    ref = submitted(logged_in)
    for _ in range(3):
        logged_in.callback(logged_in.services.tickets.sign(ref), b"{")
    mended = update(deliveries).where(deliveries.c.id == 1)
    mended = mended.values(body=b'{"id":"t","status":"running"}')
    logged_in.services.database.write(lambda connection: connection.execute(mended))
    page = logged_in.client.get("/replay-all").text
    assert "Unreadable deliveries: 3" in page
    assert "1 done, 2 failed" in run_all_steps(logged_in, page)[-1]
    assert logged_in.verdicts(ref) == [Decision.PROGRESS, Decision.UNREADABLE, Decision.UNREADABLE]


def test_an_invalid_job_form_is_shown_again_with_its_values_and_mistakes(
    logged_in: WebClient,
) -> None:
    answer = post(logged_in, "/submit", prompt=HOSTILE, model="m", variants="99", mode="pigeon")
    assert (answer.status_code, "variants:" in answer.text, "mode:" in answer.text) == (
        400,
        True,
        True,
    )
    assert "&lt;script&gt;alert(1)" in answer.text
    missing = post(logged_in, "/submit", prompt="a fox", model="m", mode="webhook")
    assert (missing.status_code, "GRSAI_API_KEY" in missing.text, "PUBLIC_URL" in missing.text) == (
        409,
        True,
        True,
    )
    assert logged_in.services.queries.jobs() == []


def test_a_job_form_offers_no_provider_whose_key_is_missing(logged_in: WebClient) -> None:
    form = logged_in.client.get("/submit").text
    assert '<option value="grsai" selected>' in form
    assert not [one for one in (*OTHERS, Provider.OPENAI) if f'value="{one}"' in form]
    for provider, name in ((Provider.FAL, "FAL_KEY"), (Provider.OPENAI, "for OpenAI use")):
        answer = post(logged_in, "/submit", prompt="a", model="a/b", provider=provider)
        assert (answer.status_code in {400, 409}, name in answer.text) == (True, True)
    assert logged_in.services.queries.jobs() == []


def test_a_job_form_can_be_filled_in_from_another_job(logged_in: WebClient) -> None:
    assert (
        "a snow fox</textarea>"
        in logged_in.client.get(f"/submit?like={submitted(logged_in, 'a snow fox')}").text
    )


@pytest.mark.parametrize(
    ("path", "size", "shown"),
    [("/retry-all", 1024**2, "1.0 MB"), ("/submit", 32 * 1024**2, "32.0 MB")],
)
def test_a_form_that_is_too_large_is_refused(
    logged_in: WebClient, path: str, size: int, shown: str
) -> None:
    answer = logged_in.client.post(path, data={"csrf_token": "x", "prompt": "x" * size})
    assert (answer.status_code, shown in answer.text) == (413, True)


def test_reference_pictures_and_parameters_reach_the_job(
    logged_in: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[GrsaiRequest] = []

    def submit(request: GrsaiRequest) -> None:
        asked.append(request)
        raise ReceiverError("8 submits are in progress already")

    monkeypatch.setattr("receiver.web.dashboard.submit.submit_job", submit)
    pictures = ["https://a.test/1.png", f"data:image/png;base64,{'A' * 2_000_000}"]
    fields = {"prompt": "a fox", "images": "\n".join(pictures), "params": '{"quality": "high"}'}
    answer = post(logged_in, "/submit", **fields)
    assert (answer.status_code, "https://a.test/1.png" in answer.text) == (503, True)
    assert (list(asked[0].images), asked[0].params) == (pictures, {"quality": "high"})


@pytest.mark.parametrize("params", ["{", "[" * 100_000, "[1]", "high"])
def test_parameters_that_are_no_json_object_are_explained(
    logged_in: WebClient, params: str
) -> None:
    logged_in.client.set_cookie("language", "zh")
    answer = post(logged_in, "/submit", prompt="a fox", params=params)
    assert (answer.status_code, "JSON 对象" in answer.text) == (400, True)


def test_every_mistake_in_the_form_is_named_at_once(logged_in: WebClient) -> None:
    answer = post(logged_in, "/submit", prompt="", params="[", metadata="{", folder="../up")
    named = [
        name in answer.text for name in ("prompt:", "Other parameters:", "Metadata:", "folder:")
    ]
    assert (answer.status_code, named) == (400, [True] * 4)


@pytest.mark.parametrize(
    ("fields", "status", "english", "chinese"),
    [
        ({"folder": "../up"}, 400, "folder: not a folder", "文件夹：不是有效的归档文件夹"),
        ({"webhook": "a.test"}, 400, "webhook: not the address", "（不是 http 或 https 网址）"),
        ({"webhook": "https://a.test/#x"}, 400, "webhook: has a # part", "webhook：不能含有 #"),
        ({"webhook": "https://a.test/x"}, 409, "EVENT_SECRET: not set", "EVENT_SECRET 未设置"),
    ],
)
def test_a_wrong_folder_or_webhook_is_explained_where_it_can_be_corrected(
    logged_in: WebClient, fields: dict[str, str], status: int, english: str, chinese: str
) -> None:
    for language, text in (("en", english), ("zh", chinese)):
        logged_in.client.set_cookie("language", language)
        answer = post(logged_in, "/submit", prompt="a fox", mode="poll", **fields)
        assert (answer.status_code, text in answer.text) == (status, True)
        assert '<details class="more" open>' in answer.text
        assert f'value="{next(iter(fields.values()))}"' in answer.text
    assert '<details class="more">' in logged_in.client.get("/submit").text


def test_an_unreadable_delivery_says_why_and_is_dismissed(logged_in: WebClient) -> None:
    ref, other = reported(logged_in, b'{"status": "succ'), reported(logged_in, FAILED)
    page = logged_in.client.get("/set-aside").text
    assert "Why it cannot be read" in page
    answer = post(logged_in, f"/jobs/{ref}/deliveries/1/dismiss", next="/set-aside")
    assert answer.headers["Location"] == "/set-aside?notice=dismissed"
    page = logged_in.client.get("/set-aside?notice=dismissed").text
    assert ("The delivery was dismissed." in page, "Nothing is set aside" in page) == (True, True)
    assert "unreadable" in logged_in.client.get(f"/jobs/{ref}").text
    assert post(logged_in, f"/jobs/{ref}/deliveries/1/dismiss").status_code == 303
    assert post(logged_in, f"/jobs/{other}/deliveries/2/dismiss").status_code == 409
    assert post(logged_in, f"/jobs/{other}/deliveries/1/dismiss").status_code == 404
