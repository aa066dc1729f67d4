"""Any callback gets a response of the contract, never a 5xx, and the audit is clean afterwards."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from examples import examples
from hypothesis import example, given
from hypothesis import strategies as st
from web_client import WebClient, web_client

from receiver.model import Decision
from receiver.web import callback
from receiver.web.rate_limit import RateLimiter

LIMIT = 60_000  # bytes, more than the strategies below make

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=30)
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
STATUSES = st.sampled_from(
    ["running", "succeeded", "failed", "violation", "SUCCEEDED", "queued", "", "\x00", "ok"]
)
IDS = st.sampled_from(["task-1", "task-2", "", "x" * 201, 7, 10**40, True]) | ANYTHING
URLS = (
    st.sampled_from(
        [
            "https://files.test/0.png",
            "http://127.0.0.1/",
            "javascript:alert(1)",
            "x" * 300,
            "",
            "https://[",
            "\ud800",
        ]
    )
    | ANYTHING
)
LONG_URL = "https://files.test/" + "x" * 9000
RESULTS = st.lists(
    st.fixed_dictionaries(
        {}, optional={"url": URLS, "imageUrl": URLS, "width": ANYTHING, "height": ANYTHING}
    )
    | ANYTHING,
    max_size=40,
)
TASKS = st.fixed_dictionaries(
    {},
    optional={
        "id": IDS,
        "status": STATUSES | ANYTHING,
        "progress": st.floats() | ANYTHING,
        "results": RESULTS | st.just([{"url": LONG_URL}]) | ANYTHING,
        "url": URLS | st.just(LONG_URL),
        "failure_reason": st.sampled_from(["input_moderation", "output_moderation", "error"])
        | ANYTHING,
        "error": ANYTHING,
        "data": ANYTHING,
        "code": ANYTHING,
    },
)
BODIES = st.one_of(
    TASKS.map(lambda task: json.dumps(task).encode()),
    TASKS.map(lambda task: json.dumps({"code": 0, "msg": "success", "data": task}).encode()),
    ANYTHING.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=300),
    st.tuples(
        TASKS.map(lambda task: json.dumps(task).encode()), st.integers(0, 60), st.binary(max_size=3)
    ).map(lambda cut: cut[0][: cut[1]] + cut[2] + cut[0][cut[1] :]),
)


@pytest.fixture
def web(sqlite_url: str, tmp_path: Path) -> Iterator[WebClient]:
    environ = {
        "DATABASE_URL": sqlite_url,
        "GRSAI_API_KEY": "sk-test",
        "CALLBACK_MAX_BYTES": str(LIMIT),
    }
    with web_client(tmp_path / "data", environ) as web:
        yield web


@examples(15)
@given(bodies=st.lists(BODIES, min_size=1, max_size=4))
@example(
    bodies=[
        b'{"id":"task-1","status":"succeeded","results":[{"url":"https://files.test/0.png"}]}',
        b'{"id":"task-2","status":"failed"}',
    ]
)
@example(
    bodies=[
        b'{"id":"a","id":"b","status":"running","status":"failed"}',
        b"[" * LIMIT,
        b'"' * LIMIT,
        b"9" * LIMIT,
    ]
)
def test_no_sequence_of_bodies_with_a_ticket_breaks_anything(
    web: WebClient, bodies: list[bytes]
) -> None:
    ticket = web.ticket()
    answers = []
    for body in bodies:
        answer = web.callback(ticket, body)
        assert answer.status_code in {200, 400}, body
        assert answer.json["ok"] is (answer.status_code == 200)
        answers.append(answer.status_code)
    kept = web.services.queries.deliveries(ticket.partition(".")[0])
    assert [row.body for row in kept] == bodies
    assert [400 if row.verdict == Decision.UNREADABLE else 200 for row in kept] == answers
    assert web.services.totals.audit().ok


@contextmanager
def unlimited() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_request_limiter", "_task_limiter"):
            patch.setattr(callback, name, lambda: RateLimiter(math.inf))
        patch.setattr("receiver.ledger.hints.MOST_A_MINUTE", math.inf)
        yield


@examples(10)
@given(body=BODIES)
def test_no_body_without_a_ticket_breaks_anything_or_makes_a_job(
    web: WebClient, body: bytes
) -> None:
    with unlimited():
        answer = web.client.post("/callback", data=body)
    assert answer.status_code in {202, 400}, body
    assert web.services.queries.jobs() == []


@examples(10)
@given(
    tail=st.text(min_size=1, max_size=90) | st.binary(min_size=1, max_size=90),
    body=st.binary(max_size=50),
)
def test_no_generated_path_is_a_valid_ticket(
    web: WebClient, tail: str | bytes, body: bytes
) -> None:
    raw = tail if isinstance(tail, bytes) else tail.encode("utf-8", "surrogatepass")
    path = "/callback/" + raw.decode("latin-1")
    answer = web.client.post("/", data=body, environ_overrides={"PATH_INFO": path, "RAW_URI": path})
    assert (answer.status_code, answer.json) == (404, {"ok": False, "error": "no such callback"})
    assert answer.headers.get("Location") is None


@examples(8)
@given(
    headers=st.dictionaries(
        st.sampled_from(
            [
                "Content-Type",
                "Content-Encoding",
                "Expect",
                "X-Forwarded-For",
                "X-Forwarded-Host",
                "Forwarded",
                "Cookie",
                "Range",
            ]
        ),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40),
    ),
    query=st.text(max_size=40),
)
def test_no_header_and_no_query_changes_the_meaning_of_a_callback(
    web: WebClient, headers: dict[str, str], query: str
) -> None:
    ticket = web.ticket()
    body = b'{"id":null,"status":"running","progress":7}'
    answer = web.client.post(f"/callback/{ticket}", data=body, headers=headers, query_string=query)
    assert answer.status_code == 200
    assert web.verdicts(ticket.partition(".")[0]) == ["progress"]


@examples(8)
@given(first=TASKS, second=TASKS)
def test_a_second_body_never_undoes_the_first_decision(
    web: WebClient, first: dict[str, Any], second: dict[str, Any]
) -> None:
    ticket = web.ticket()
    ref = ticket.partition(".")[0]
    web.callback(ticket, json.dumps(first).encode())
    decided = web.services.queries.job(ref)
    web.callback(ticket, json.dumps(second).encode())
    after = web.services.queries.job(ref)
    assert decided is not None
    assert after is not None
    if decided.outcome is not None:
        assert (after.outcome, after.state, after.reason) == (
            decided.outcome,
            decided.state,
            decided.reason,
        )


# The contract as an OpenAPI document: schemathesis generates valid and invalid requests from it.

CONTRACT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "callbacks", "version": "1"},
    "paths": {
        f"/callback{tail}": {
            "post": {
                "parameters": [
                    {
                        "name": "ticket",
                        "in": "path",
                        "required": True,
                        "schema": {"type": "string", "minLength": 1},
                    }
                ]
                if tail
                else [],
                "requestBody": {
                    "content": {
                        "application/json": {"schema": {"$ref": "#/components/schemas/Task"}}
                    }
                },
                "responses": {
                    status: {
                        "description": "",
                        "content": {
                            "application/json": {"schema": {"$ref": "#/components/schemas/Answer"}}
                        },
                    }
                    for status in statuses
                },
            }
        }
        for tail, statuses in (
            ("/{ticket}", ("200", "400", "404", "413", "503")),
            ("", ("202", "400", "401", "413", "503")),
        )
    },
    "components": {
        "schemas": {
            "Task": {
                "type": "object",
                "required": ["status"],
                "properties": {
                    "id": {"type": "string"},
                    "status": {"enum": ["running", "succeeded", "failed"]},
                    "progress": {"type": "number"},
                    "results": {
                        "type": ["array", "null"],
                        "items": {"type": "object", "properties": {"url": {"type": "string"}}},
                    },
                },
            },
            "Answer": {
                "type": "object",
                "required": ["ok"],
                "properties": {"ok": {"type": "boolean"}},
            },
        }
    },
}


@pytest.mark.parametrize("path", CONTRACT["paths"])
@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_every_response_conforms_to_the_contract(web: WebClient, path: str, mode: str) -> None:
    # Imported here, because it takes a second in each of the processes that collect this module.
    from schemathesis import GenerationMode, openapi  # noqa: PLC0415 - see above
    from schemathesis.checks import not_a_server_error  # noqa: PLC0415 - see above
    from schemathesis.specs.openapi import checks  # noqa: PLC0415 - see above

    conforms = [checks.status_code_conformance, checks.response_schema_conformance]
    operation = openapi.from_dict(CONTRACT)[path]["POST"]

    @examples(5)
    @given(case=operation.as_strategy(generation_mode=GenerationMode[mode]))
    def answers(case: Any) -> None:
        with unlimited():
            answer = case.call(app=web.client.application)
        case.validate_response(answer, checks=[not_a_server_error, *conforms])

    answers()
