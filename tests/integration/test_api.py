"""The API on a real ledger: who may call it, and what it returns about jobs."""

import re
from pathlib import Path

import pytest
from api_jobs import DIGEST, PICTURE, archived, get, reported, submitted
from job_keys import ASSET_KEYS, JOB_KEYS
from web_client import FAILED, WebClient

from receiver.model import Submission, timestamp

UNKNOWN = "01JZ2Q7V3N0123456789ABCDEF"

# Access.


PRIVATE = [
    ("GET", "/api/jobs"),
    ("POST", "/api/jobs"),
    ("GET", f"/api/jobs/{UNKNOWN}"),
    ("POST", f"/api/jobs/{UNKNOWN}/retry"),
    ("GET", f"/api/jobs/{UNKNOWN}/assets/0"),
    ("GET", f"/api/jobs/{UNKNOWN}/assets/0/rejected"),
    ("POST", f"/api/jobs/{UNKNOWN}/assets/0/accept"),
    ("GET", "/api/events"),
    ("GET", "/api/audit"),
]


@pytest.mark.parametrize(("method", "path"), PRIVATE)
def test_every_private_route_needs_the_token(web: WebClient, method: str, path: str) -> None:
    token = web.services.admin_token
    for given in (
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {token}x",
        f"Bearer {token[:-1]}",
        f"Basic {token}",
        token,
        "Bearer \xe9",
    ):
        headers = {} if given is None else {"Authorization": given}
        answer = web.client.open(path, method=method, headers=headers)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer"), given
        assert answer.content_type == "application/problem+json"
        assert token not in answer.text


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_health_checks_and_metrics_need_no_token(web: WebClient, path: str) -> None:
    assert web.client.get(path).status_code == 200


def test_the_word_bearer_is_case_insensitive(web: WebClient) -> None:
    assert (
        web.client.get(
            "/api/jobs", headers={"Authorization": f"bearer  {web.services.admin_token}"}
        ).status_code
        == 200
    )


# Jobs.


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            "state=done",
            (
                "state: Input should be 'submitting', 'waiting', 'archiving', 'archived', "
                "'failed' or 'expired'"
            ),
        ),
        *(
            (f"limit={wrong}", "limit: write a number in digits")
            for wrong in ("-1", "x", "", "1.5", "%D9%A3", "+5", "9" * 5000)
        ),
        ("limit=0", "limit: Input should be greater than or equal to 1"),
        ("limit=501", "limit: Input should be less than or equal to 500"),
        ("limit=5&limit=6", "limit: given more than once"),
        ("q=%00", "q: String should match pattern '^[^\\x00]*$'"),
        ("after=x", "after: write the ref that is `next` in the previous page"),
        ("since=5", "since: write a moment as in 2026-07-01T12:00:00Z"),
        ("until=2026-07-01T12:00:00", "until: Input should have timezone info"),
    ],
)
def test_an_invalid_query_is_refused_with_the_reason(
    web: WebClient, query: str, message: str
) -> None:
    answer = get(web, f"/api/jobs?{query}")
    assert (answer.status_code, answer.json["detail"]) == (400, message)


def test_all_mistakes_of_a_query_are_reported_at_once(web: WebClient) -> None:
    assert get(web, "/api/jobs?limit=x&state=y&after=z").json["detail"].count(";") == 2


def test_a_job_has_exactly_the_keys_of_the_contract(web: WebClient, tmp_path: Path) -> None:
    refs = {
        submitted(web): "submitting",
        reported(web, {**FAILED, "id": "task-0"}): "failed",
        archived(web, tmp_path): "archived",
    }
    for ref, state in refs.items():
        job = get(web, f"/api/jobs/{ref}").json
        assert list(job) == JOB_KEYS
        assert all(list(asset) == ASSET_KEYS for asset in job["assets"])
        assert (job["ref"], job["state"], job["provider"], job["model"], job["prompt"]) == (
            ref,
            state,
            "grsai",
            "gpt-image-1.5",
            "a fox",
        )
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", job["submitted_at"])
    assert job["progress"] == 100
    (row,) = web.services.queries.assets([ref])[ref]
    assert job["assets"] == [
        {
            "index": 0,
            "state": "archived",
            "key": f"2026/10/01/{ref}/0.png",
            "url": f"/api/jobs/{ref}/assets/0",
            "public_url": None,
            "sha256": DIGEST,
            "size": len(PICTURE),
            "content_type": "image/png",
            "width": 8,
            "height": 8,
            "error": "",
            "attempts": 1,
            "expires_at": timestamp(row.expires_at),
            "finished_at": timestamp(row.finished_at),
            "accepted_at": None,
            "rejected": None,
            "defect": "",
            "marks": [],
            "doubt": None,
        }
    ]


def test_a_failed_job_says_why(web: WebClient) -> None:
    job = get(web, f"/api/jobs/{reported(web, FAILED)}").json
    assert (job["state"], job["reason"], job["message"], job["provider_id"]) == (
        "failed",
        "output_moderation",
        "no",
        "task-1",
    )


@pytest.mark.parametrize("ref", [UNKNOWN, "x", "%00", "%FF", "..%2F", "x" * 5000])
def test_an_unknown_job_is_404(web: WebClient, ref: str) -> None:
    for method, path in (("GET", ""), ("POST", "/retry"), ("GET", "/assets/0")):
        assert (
            web.client.open(f"/api/jobs/{ref}{path}", method=method, headers=web.admin).status_code
            == 404
        )


def test_the_list_is_newest_first_and_its_pages_have_no_gap_or_overlap(
    web: WebClient,
) -> None:
    refs = sorted((submitted(web) for _ in range(5)), reverse=True)
    found: list[str] = []
    cursor: str | None = ""
    for expected in (2, 2, 1):
        page = get(web, f"/api/jobs?limit=2&after={cursor}").json
        assert len(page["jobs"]) == expected
        found += [job["ref"] for job in page["jobs"]]
        cursor = page["next"]
    assert (found, cursor) == (refs, None)
    assert get(web, f"/api/jobs?after={min(refs)}").json == {"jobs": [], "next": None}
    assert get(web, "/api/jobs?limit=5").json["next"] is None, (
        "a page that just fits is the last one"
    )


def test_the_list_is_filtered_by_state_and_text(web: WebClient) -> None:
    fox, owl = submitted(web, "a FOX, 100% red"), submitted(web, "an owl", "nano-banana")
    failed = reported(web, {**FAILED, "id": "f44bcf50"}, "a fox_trot")
    in_shop = Submission("a vase", "gpt-image-1.5", {}, folder="shop")
    vase = web.services.jobs.submit(in_shop, "https://provider.test").ref
    for query, refs in {
        "state=submitting": {fox, owl, vase},
        "state=failed": {failed},
        "state=expired": set(),
        "q=fox": {fox, failed},
        "q=nano-ban": {owl},
        "q=F44BCF": {failed},
        f"q={owl[10:]}": {owl},
        "q=100%25": {fox},
        "q=fox_trot": {failed},
        "q=_": {failed},
        "q=%25": {fox},
        "q=%5C": set(),
        "state=failed&q=owl": set(),
        "folder=shop": {vase},
        "folder=sho": set(),
        "folder=shop&q=owl": set(),
        "state=&q=": {fox, owl, failed, vase},
    }.items():
        assert {job["ref"] for job in get(web, f"/api/jobs?{query}").json["jobs"]} == refs, query


def test_only_a_failed_job_can_be_retried(web: WebClient, tmp_path: Path) -> None:
    unfinished, safe = submitted(web), archived(web, tmp_path)
    lost = reported(web, {**FAILED, "id": "task-2"})
    for ref in (unfinished, safe):
        answer = web.client.post(f"/api/jobs/{ref}/retry", headers=web.admin)
        assert (answer.status_code, answer.content_type) == (409, "application/problem+json")
        assert ref in answer.json["detail"]
    answer = web.client.post(f"/api/jobs/{lost}/retry", headers=web.admin)
    assert (answer.status_code, answer.json["state"], answer.json["reason"]) == (
        200,
        "waiting",
        None,
    )
    assert web.client.post(f"/api/jobs/{lost}/retry", headers=web.admin).status_code == 409, (
        "it is in progress now"
    )
    assert web.client.get(f"/api/jobs/{lost}/retry", headers=web.admin).status_code == 405


def test_wrong_tokens_are_limited_and_the_right_one_always_works(web: WebClient) -> None:
    wrong = {"Authorization": "Bearer guess"}
    for address in ("127.0.0.1", "192.0.2.7"):
        place = {"REMOTE_ADDR": address}
        statuses = [
            web.client.get("/api/jobs", headers=wrong, environ_base=place).status_code
            for _ in range(100)
        ]
        assert statuses == [401] * 10 + [429] * 90, "each address has a limit of its own"
    answer = web.client.get("/api/jobs", headers=wrong)
    assert (answer.status_code, int(answer.headers["Retry-After"]) <= 4) == (429, True)
    assert answer.content_type == "application/problem+json"
    assert web.client.get("/api/jobs", headers=web.admin).status_code == 200
    assert "work" in web.client.get("/status", headers=web.admin).json["checks"]
    assert "detail" not in web.client.get("/status", headers=wrong).json["checks"]["work"]
    assert web.client.post("/login", data={"token": "guess"}).status_code == 429
    assert web.client.post("/login", data={"token": web.services.admin_token}).status_code == 303
