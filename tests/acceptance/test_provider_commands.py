"""The commands and the form with jobs of every provider, by one service."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from batches import batch, batch_file, report
from installation import Installation
from other_providers import MODELS, OTHERS

from receiver.errors import ReceiverError
from receiver.model import Provider
from receiver.settings import Settings
from submitter import Submitter
from submitter.sandbox import Sandbox


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with Sandbox(script={"delay": 0, "bytes": 20_000}, looks=1) as sandbox:
        installation = Installation(tmp_path_factory.mktemp("providers"), sandbox)
        installation.environ |= sandbox.stand_ins.environ("any")
        with installation.started():
            yield installation


@pytest.fixture
def served(service: Installation, tmp_path: Path) -> Installation:
    return service.for_another_test(tmp_path)


@pytest.fixture
def elsewhere(served: Installation, tmp_path: Path) -> dict[str, str]:
    """Return the environment of another machine: no ledger, no provider's key."""
    token = (served.data / "secrets" / "admin").read_text().strip()
    keys = dict.fromkeys(served.sandbox.stand_ins.environ(""), "")
    more = {"GRSAI_API_KEY": "", "PUBLIC_URL": "", "DATA_DIR": str(tmp_path / "none")}
    return {**keys, **more, "RECEIVER_URL": served.url, "ADMIN_TOKEN": token}


def test_a_mixed_file_is_posted_and_what_fails_is_posted_again_at_its_own_provider(
    served: Installation,
) -> None:
    fine = [{"prompt": f"fine at {one}", "provider": one, "model": MODELS[one]} for one in OTHERS]
    broken = [
        {
            "prompt": f"broken at {one}",
            "provider": one,
            "model": MODELS[one],
            "params": {"sandbox": {"fail": "error"}, "seed": 7},
        }
        for one in OTHERS
    ]
    batch_file(served, [*fine, {"prompt": "fine at grsai"}, *broken])
    done = batch(served, "batch.jsonl", "--resubmit", "1", "--report", "report.jsonl")
    assert (done.status, done.out) == (1, "9 lines: 5 archived, 4 failed\n")
    posts = Counter(task["prompt"] for task in served.tasks())
    assert {posts[f"fine at {one}"] for one in (*OTHERS, "grsai")} == {1}
    assert {posts[f"broken at {one}"] for one in OTHERS} == {2}
    for line in report(served)[5:]:
        assert (line["provider"], line["request"]["params"]["seed"]) == (
            line["prompt"].removeprefix("broken at "),
            7,
        )


@pytest.mark.parametrize("provider", OTHERS)
def test_a_failed_submit_is_posted_again_with_its_own_params(
    served: Installation, provider: Provider
) -> None:
    options = ["--provider", provider.value, "--model", MODELS[provider], "--param", "seed=7"]
    broken = ["--param", 'sandbox={"fail": "error"}', "--wait", "--resubmit", "1"]
    done = served.invoke("submitter", "submit", f"breaks at {provider}", *options, *broken)
    assert (done.status, "posted again" in done.err) == (1, True)
    assert [task["prompt"] for task in served.tasks()] == [f"breaks at {provider}"] * 2


@pytest.mark.parametrize("provider", OTHERS)
def test_a_submit_from_another_machine_brings_the_picture_here(
    served: Installation, elsewhere: dict[str, str], provider: Provider
) -> None:
    options = ["--provider", provider.value, "--model", MODELS[provider], "--json", "-o", "out"]
    done = served.invoke("submitter", "submit", "from elsewhere", *options, **elsewhere)
    assert done.status == 0, done.err
    job = json.loads(done.out)
    assert (job["state"], job["provider"]) == ("archived", provider)
    assert (served.folder / "out" / f"{job['ref']}-0.png").exists()


def test_credits_are_told_for_each_provider_here_and_from_another_machine(
    served: Installation, elsewhere: dict[str, str]
) -> None:
    for environ in ({}, elsewhere):
        done = served.invoke("submitter", "credits", "--json", **environ)
        assert done.status == 0, done.err
        left = json.loads(done.out)["providers"]
        assert (left["fal"], left["replicate"], left["bfl"], left["kie"]) == (
            *(None, None),
            *(10_000, 10_000),
        )
        assert left["grsai"] == json.loads(done.out)["credits"]


def test_the_library_tells_the_credits_of_each_provider(
    served: Installation, elsewhere: dict[str, str]
) -> None:
    for environ in (served.environ, {**served.environ, **elsewhere}):
        given = {name: value for name, value in environ.items() if value}
        with Submitter(Settings.load(given)) as submitter:
            left = [submitter.credits(provider) for provider in OTHERS]
            assert left == [None, None, 10_000.0, 10_000.0]
            with pytest.raises(ReceiverError, match="OPENAI_API_KEY"):
                submitter.credits(Provider.OPENAI)


def test_a_wrong_key_is_told_and_the_other_credits_are_printed(served: Installation) -> None:
    wrong = f"{served.sandbox.url}/nothing-here"
    done = served.invoke("submitter", "credits", BFL_BASE_URL=wrong)
    assert (done.status, "cannot be asked for credits" in done.err) == (1, True)
    assert "credits left at kie" in done.out


def test_the_images_api_lists_models_as_a_request_must_name_them(
    served: Installation, elsewhere: dict[str, str]
) -> None:
    wants = {"prompt": "a model", "response_format": "url"}
    headers = {"Authorization": f"Bearer {elsewhere['ADMIN_TOKEN']}"}
    named = {f"{provider}/{MODELS[provider]}" for provider in OTHERS}
    for model in named:
        answer = requests.post(
            f"{served.url}/v1/images/generations",
            json={**wants, "model": model},
            headers=headers,
            timeout=20,
        )
        assert answer.status_code == 200, answer.text
    listed = requests.get(f"{served.url}/v1/models", headers=headers, timeout=10).json()["data"]
    assert {one["id"] for one in listed} == {"gpt-image-1.5", *named}


# The form.


@pytest.fixture
def dashboard(service: Installation) -> requests.Session:
    session = requests.Session()
    token = (service.data / "secrets" / "admin").read_text().strip()
    session.post(f"{service.url}/login", data={"token": token}, timeout=10)
    return session


def chosen(page: str) -> list[str]:
    """Return the provider that a form has chosen."""
    return re.findall(r'<option value="(\w+)" selected>\w+</option>', page)


@pytest.mark.parametrize("provider", OTHERS)
def test_the_form_submits_to_each_provider_and_is_filled_in_from_its_jobs(
    served: Installation, dashboard: requests.Session, provider: Provider
) -> None:
    form = dashboard.get(f"{served.url}/submit", timeout=10).text
    assert chosen(form) == ["grsai"]
    assert f'<option value="{MODELS[provider]}" label="{provider}">' in form
    token = re.search(r'name="csrf_token" value="([^"]+)"', form)
    assert token
    fields = {"prompt": "a form", "provider": provider.value, "mode": "webhook"}
    fields |= {"csrf_token": token[1], "params": '{"seed": 7}'}

    wrong = {**fields, "size": "4K", "mode": "stream", "model": MODELS[provider]}
    answer = dashboard.post(f"{served.url}/submit", data=wrong, timeout=10)
    assert (answer.status_code, chosen(answer.text)) == (400, [provider])
    assert (f"mode: {provider} has no streams" in answer.text, "size:" in answer.text) == (
        True,
        True,
    )
    answer = dashboard.post(f"{served.url}/submit", data=fields, timeout=10)
    assert (answer.status_code, "name one, such as" in answer.text) == (400, True)
    assert served.tasks() == [], "nothing was posted"

    right = {**fields, "model": MODELS[provider]}
    answer = dashboard.post(f"{served.url}/submit", data=right, timeout=10)
    ref = answer.url.rpartition("/")[2].partition("?")[0]
    served.wait(ref)
    page = dashboard.get(f"{served.url}/jobs/{ref}", timeout=10).text
    assert "proved" in page
    like = dashboard.get(f"{served.url}/submit?like={ref}", timeout=10).text
    assert (chosen(like), "&#34;seed&#34;: 7" in like) == ([provider], True)
