"""``submitter credits``: credits left and job counts by model, and the credits of the sandbox."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from batches import a_line, batch, batch_file, quick_sandbox
from installation import Installation

from submitter.sandbox import Sandbox

CREDITS = "/client/openapi/getAPIKeyCredits"


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with quick_sandbox() as running:
        yield running


def credits_json(installation: Installation, status: int = 0, **environ: str) -> dict[str, Any]:
    done = installation.invoke("submitter", "credits", "--json", **environ)
    assert done.status == status, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_an_accepted_job_costs_a_credit_and_a_failed_one_returns_it(
    installation: Installation,
) -> None:
    assert credits_json(installation) == {"credits": 10_000, "models": []}
    lines = [
        a_line("a", model="nano-banana"),
        a_line("b", model="nano-banana"),
        a_line("c", model="nano-banana", script={"fail": "error"}),
        a_line("d", script={"fail": "input_moderation"}),
        a_line("e", script={"refuse": "no"}),
    ]
    batch_file(installation, lines)
    batch_file(installation, [a_line("f", model="sora-image", script={"delay": 60})], "slow.jsonl")
    with installation.started():
        assert batch(installation, "batch.jsonl").status == 1
        assert batch(installation, "slow.jsonl", "--no-wait").status == 0
    none = dict.fromkeys(
        ("submitted", "archived", "refunded", "refused", "failed", "expired", "in_flight"), 0
    )
    grsai = {**none, "provider": "grsai"}
    assert credits_json(installation) == {
        "credits": 9_997,
        "models": [
            {**grsai, "model": "nano-banana", "submitted": 3, "archived": 2, "refunded": 1},
            {**grsai, "model": "gpt-image-1.5", "submitted": 2, "refunded": 1, "refused": 1},
            {**grsai, "model": "sora-image", "submitted": 1, "in_flight": 1},
        ],
    }
    done = installation.invoke("submitter", "credits")
    assert done.status == 0
    assert done.out.startswith("9,997 credits left\n")
    assert "nano-banana" in done.out


def test_without_a_key_the_table_is_still_printed(installation: Installation) -> None:
    done = installation.invoke("submitter", "credits", GRSAI_API_KEY="")
    assert done.status == 2
    assert "GRSAI_API_KEY: not set" in done.err
    assert "refunded: failed at the provider" in done.out
    assert credits_json(installation, 2, GRSAI_API_KEY="") == {"credits": None, "models": []}


def test_a_provider_that_refuses_the_question_is_exit_status_1(tmp_path: Path) -> None:
    with Sandbox(keys={"sk-other"}) as sandbox:
        installation = Installation(tmp_path, sandbox)
        done = installation.invoke("submitter", "credits")
        assert (done.status, "invalid apikey" in done.err) == (1, True)
    assert credits_json(installation, 1) == {"credits": None, "models": []}


def test_the_sandbox_answers_as_the_vendor_does() -> None:
    with Sandbox(keys={"sk-1"}) as sandbox:
        answer = requests.post(sandbox.url + CREDITS, json={"apiKey": "sk-1"}, timeout=10)
        assert (answer.status_code, answer.json()) == (
            200,
            {"code": 0, "msg": "success", "data": {"credits": 10_000}},
        )
        wrong: list[Any] = [{"apiKey": "sk-2"}, {"apiKey": 1}, {}, []]
        for body in wrong:
            answer = requests.post(sandbox.url + CREDITS, json=body, timeout=10)
            assert (answer.status_code, answer.json()) == (
                200,
                {"code": -1, "msg": "invalid apikey", "data": None},
            )
