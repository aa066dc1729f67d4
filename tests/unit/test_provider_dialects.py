"""fal, Replicate, BFL and kie.ai: what is sent, and how their answers and reports are read."""

import json
from typing import Any

import pytest
from signing import PICTURE

from receiver.errors import (
    AnswerLostError,
    ConfigurationError,
    NoSuchTaskError,
    NotSentError,
    ProviderUnavailableError,
    RefusedError,
    UnreadableError,
)
from receiver.model import Api, Mode, Provider, Submission
from receiver.providers.dialect import Accepted, Account, Callback, Head, Task
from receiver.providers.registry import DIALECTS, LIFETIMES
from receiver.settings import Settings

OTHERS = [one for one in DIALECTS if one is not Provider.GRSAI]
ACCOUNT = Account("a-key", "https://api.example", "https://keys.example/jwks.json")
CALLBACK = Callback("https://us.example/callback/T.S", "job-secret")
MODELS = {
    Provider.FAL: "fal-ai/flux/dev",
    Provider.REPLICATE: "black-forest-labs/flux-schnell",
    Provider.BFL: "flux-2-pro",
    Provider.KIE: "google/nano-banana",
}
OK = Head(200)


def raw(value: Any) -> bytes:
    return json.dumps(value).encode()


def asked(
    provider: Provider, model: str = "", mode: Mode = Mode.WEBHOOK, **params: Any
) -> Submission:
    return Submission("a fox", model or MODELS[provider], params, mode, provider, Api.QUEUE)


def task(provider: Provider, poll_url: str | None = None) -> Task:
    return Task(provider, "t/1", ACCOUNT.base_url, Api.QUEUE, MODELS[provider], poll_url)


# Submits.


def built(
    provider: Provider, callback: Callback | None = CALLBACK, **params: Any
) -> tuple[str, Any]:
    request = DIALECTS[provider].build_submit(ACCOUNT, asked(provider, **params), callback)
    return request.url, request.body


def test_a_submit_is_what_each_provider_documents() -> None:
    assert built(Provider.FAL, seed=7) == (
        "https://api.example/fal-ai/flux/dev?fal_webhook=https%3A%2F%2Fus.example%2Fcallback%2FT.S",
        {"seed": 7, "prompt": "a fox"},
    )
    assert built(Provider.REPLICATE, seed=7) == (
        "https://api.example/v1/models/black-forest-labs/flux-schnell/predictions",
        {
            "input": {"seed": 7, "prompt": "a fox"},
            "webhook": CALLBACK.url,
            "webhook_events_filter": ["completed"],
        },
    )
    assert built(Provider.BFL, seed=7) == (
        "https://api.example/v1/flux-2-pro",
        {
            "seed": 7,
            "prompt": "a fox",
            "webhook_url": CALLBACK.url,
            "webhook_secret": "job-secret",
        },
    )
    assert built(Provider.KIE, seed=7) == (
        "https://api.example/api/v1/jobs/createTask",
        {
            "model": "google/nano-banana",
            "input": {"seed": 7, "prompt": "a fox"},
            "callBackUrl": CALLBACK.url,
        },
    )


@pytest.mark.parametrize("provider", OTHERS)
def test_a_job_that_is_polled_names_no_callback(provider: Provider) -> None:
    url, body = built(provider, None)
    assert "us.example" not in url + json.dumps(body)
    assert "secret" not in json.dumps(body)


def test_a_param_cannot_send_bfl_s_callbacks_elsewhere() -> None:
    theirs = {"webhook_url": "https://elsewhere.example", "webhook_secret": "known"}
    for callback in (CALLBACK, None):
        _, body = built(Provider.BFL, callback, **theirs)
        assert not {"https://elsewhere.example", "known"} & set(body.values())


def test_the_key_is_sent_as_each_provider_wants_it() -> None:
    headers = {
        provider: dict(DIALECTS[provider].build_submit(ACCOUNT, asked(provider), None).headers)
        for provider in OTHERS
    }
    assert headers[Provider.FAL]["Authorization"] == "Key a-key"
    assert json.loads(headers[Provider.FAL]["X-Fal-Object-Lifecycle-Preference"]) == {
        "expiration_duration_seconds": LIFETIMES[Provider.FAL]
    }
    assert headers[Provider.REPLICATE] == {"Authorization": "Bearer a-key"}
    assert headers[Provider.BFL] == {"x-key": "a-key"}
    assert headers[Provider.KIE] == {"Authorization": "Bearer a-key"}


@pytest.mark.parametrize("version", ["a" * 64, f"owner/name:{'b' * 64}"])
def test_a_version_at_replicate_is_posted_by_its_digits(version: str) -> None:
    request = DIALECTS[Provider.REPLICATE].build_submit(
        ACCOUNT, asked(Provider.REPLICATE, version), None
    )
    assert request.url == "https://api.example/v1/predictions"
    assert request.body is not None
    assert request.body["version"] == version[-64:]


@pytest.mark.parametrize("provider", OTHERS)
@pytest.mark.parametrize(
    "model", ["../admin", "a/../b", "/v1/x", "a b", "a?b=c", "a#b", "", "a//b", "ä", "a/", ".x"]
)
def test_a_model_cannot_lead_to_another_address(provider: Provider, model: str) -> None:
    submission = Submission("a fox", model, {}, Mode.POLL, provider, Api.QUEUE)
    with pytest.raises(ValueError, match="is not a model's name, such as"):
        DIALECTS[provider].build_submit(ACCOUNT, submission, None)


def test_what_a_provider_cannot_do_is_refused_with_the_remedy() -> None:
    for provider in OTHERS:
        dialect, model = DIALECTS[provider], MODELS[provider]
        assert (
            "use --mode webhook or poll" in dialect.mistakes(asked(provider, mode=Mode.STREAM))[0]
        )
        for word in ("2K", "large", "auto"):
            with pytest.raises(ValueError, match=f"has no size {word}"):
                dialect.size_params(model, Api.QUEUE, word)
        with pytest.raises(ValueError, match="give it as a param"):
            dialect.reference_params(model, Api.QUEUE, (PICTURE,))
        assert dialect.reference_params(model, Api.QUEUE, ()) == {}
    for provider in (Provider.BFL, Provider.KIE):
        with pytest.raises(ValueError, match="submit 3 jobs, which --split does"):
            DIALECTS[provider].count_params("m", Api.QUEUE, 3)
        assert DIALECTS[provider].count_params("m", Api.QUEUE, 1) == {}
    assert DIALECTS[Provider.FAL].mistakes(asked(Provider.FAL, sync_mode=True)) != []


def test_sizes_and_counts_become_the_provider_s_fields() -> None:
    pixels = {
        provider: DIALECTS[provider].size_params("m", Api.QUEUE, "1024x768")
        for provider in (Provider.FAL, Provider.REPLICATE, Provider.BFL)
    }
    assert pixels == {
        Provider.FAL: {"image_size": {"width": 1024, "height": 768}},
        Provider.REPLICATE: {"width": 1024, "height": 768},
        Provider.BFL: {"width": 1024, "height": 768},
    }
    for provider in OTHERS:
        found = DIALECTS[provider].size_params("m", Api.QUEUE, "16:9")
        assert found == {"aspect_ratio": "16:9"}
    assert DIALECTS[Provider.FAL].count_params("m", Api.QUEUE, 4) == {"num_images": 4}
    assert DIALECTS[Provider.REPLICATE].count_params("m", Api.QUEUE, 4) == {"num_outputs": 4}


# Answers to submits.

TAKEN: dict[Provider, tuple[Any, str | None]] = {
    Provider.FAL: (
        {"request_id": "t1", "status_url": "https://queue.fal.run/fal-ai/flux/requests/t1/status"},
        "https://queue.fal.run/fal-ai/flux/requests/t1/status",
    ),
    Provider.REPLICATE: (
        {"id": "t1", "status": "starting", "urls": {"get": "https://r.example/v1/predictions/t1"}},
        "https://r.example/v1/predictions/t1",
    ),
    Provider.BFL: (
        {"id": "t1", "polling_url": "https://api.eu1.bfl.ai/v1/get_result?id=t1"},
        "https://api.eu1.bfl.ai/v1/get_result?id=t1",
    ),
    Provider.KIE: ({"code": 200, "msg": "success", "data": {"taskId": "t1"}}, None),
}


@pytest.mark.parametrize("provider", OTHERS)
def test_an_accepted_submit_has_an_id_and_where_to_ask(provider: Provider) -> None:
    body, poll_url = TAKEN[provider]
    found = DIALECTS[provider].read_submit(Head(201), raw(body))
    assert (found.provider_id, found.poll_url, found.is_end) == ("t1", poll_url, False)


def test_bfl_s_answer_to_a_submit_with_a_webhook_has_no_polling_url() -> None:
    body = raw({"id": "t1", "status": "Pending", "webhook_url": CALLBACK.url})
    assert DIALECTS[Provider.BFL].read_submit(OK, body).poll_url is None
    request = DIALECTS[Provider.BFL].build_poll(ACCOUNT, task(Provider.BFL))
    assert request.url == "https://api.example/v1/get_result?id=t%2F1"


REFUSED: list[tuple[Provider | None, int, Any, type[Exception], str]] = [
    (None, 401, {"detail": "no such key"}, RefusedError, "no such key"),
    (None, 422, {"detail": [{"loc": ["body"], "msg": "prompt: missing"}]}, RefusedError, "missing"),
    (None, 302, {}, RefusedError, "redirects"),
    (None, 429, {"detail": "slow down"}, NotSentError, "slow down"),
    (None, 408, {}, AnswerLostError, "408"),
    (None, 500, {"detail": "oops"}, AnswerLostError, "oops"),
    (None, 200, [], AnswerLostError, "not a JSON object"),
    (None, 200, {"nothing": 1}, AnswerLostError, "has no"),
    (Provider.KIE, 200, {"code": 402, "msg": "no credits"}, RefusedError, "no credits"),
    (Provider.KIE, 200, {"code": 429, "msg": "slow"}, NotSentError, "slow"),
    (Provider.KIE, 200, {"code": 500, "msg": "oops"}, AnswerLostError, "oops"),
    (Provider.BFL, 402, {"detail": "Insufficient credits"}, RefusedError, "Insufficient"),
]


@pytest.mark.parametrize(("only", "status", "body", "error", "words"), REFUSED)
def test_a_submit_that_was_not_taken_says_whether_it_may_be_repeated(
    only: Provider | None, status: int, body: Any, error: type[Exception], words: str
) -> None:
    for provider in [only] if only else OTHERS:
        with pytest.raises(error, match=words):
            DIALECTS[provider].read_submit(Head(status, "https://x.example/y"), raw(body))


@pytest.mark.parametrize("where", ["https://[::1", "http://x:port/", "https://", "file:///x", 7])
def test_an_address_that_cannot_be_asked_is_left_out_and_the_task_s_id_kept(where: object) -> None:
    answers = [
        (Provider.FAL, {"request_id": "t", "status_url": where}),
        (Provider.REPLICATE, {"id": "t", "urls": {"get": where}}),
        (Provider.BFL, {"id": "t", "polling_url": where}),
    ]
    for provider, body in answers:
        assert DIALECTS[provider].read_submit(OK, raw(body)) == Accepted("t")


def test_a_code_of_kie_may_be_a_text() -> None:
    taken = {"code": "200", "msg": "success", "data": {"taskId": "t"}}
    assert DIALECTS[Provider.KIE].read_submit(OK, raw(taken)) == Accepted("t")


# Polls.


@pytest.mark.parametrize("secret", ["whsec_", "whsec_AA==", "whsec_!", "A" * 32])
def test_a_secret_of_replicate_that_could_be_guessed_is_refused(secret: str) -> None:
    with pytest.raises(ConfigurationError, match="must be whsec_ and base64 of 16 bytes or more"):
        Settings.load({"REPLICATE_WEBHOOK_SECRET": secret})


def test_fal_is_asked_at_its_own_address_whatever_an_id_or_an_address_looks_like() -> None:
    fal, base = DIALECTS[Provider.FAL], ACCOUNT.base_url
    odd = Task(Provider.FAL, "../?x=#", base, Api.QUEUE, "a/b/c")
    assert fal.build_poll(ACCOUNT, odd).url == f"{base}/a/b/requests/..%2F%3Fx%3D%23/status"
    logs = Task(Provider.FAL, "t", base, Api.QUEUE, "a/b", f"{base}/a/b/requests/t/status?logs=1")
    assert fal.build_poll(ACCOUNT, logs).url == f"{base}/a/b/requests/t/status"
    trouble = Head(500), raw({"detail": "Internal Server Error"})
    with pytest.raises(ProviderUnavailableError, match="Internal Server Error"):
        fal.read_poll(ACCOUNT, logs, *trouble)
    assert fal.read_poll(ACCOUNT, logs, Head(500), raw({"detail": [{"msg": "no"}]})) is None
    adopted = Task(Provider.FAL, "t", base, Api.QUEUE, "")
    with pytest.raises(ProviderUnavailableError, match="the app is not known"):
        fal.build_poll(ACCOUNT, adopted)


def test_a_poll_asks_where_the_provider_said() -> None:
    urls = {
        provider: DIALECTS[provider].build_poll(ACCOUNT, task(provider)).url for provider in OTHERS
    }
    assert urls == {
        Provider.FAL: "https://api.example/fal-ai/flux/requests/t%2F1/status",
        Provider.REPLICATE: "https://api.example/v1/predictions/t%2F1",
        Provider.BFL: "https://api.example/v1/get_result?id=t%2F1",
        Provider.KIE: "https://api.example/api/v1/jobs/recordInfo?taskId=t%2F1",
    }
    given_ = "https://api.eu1.bfl.ai/v1/get_result?id=t1"
    assert DIALECTS[Provider.BFL].build_poll(ACCOUNT, task(Provider.BFL, given_)).url == given_


def test_fal_s_result_is_asked_for_when_its_request_is_completed() -> None:
    fal, status_url = DIALECTS[Provider.FAL], "https://api.example/fal-ai/flux/requests/t1/status"
    asked_ = task(Provider.FAL, status_url)
    assert fal.build_poll(ACCOUNT, asked_).url == status_url
    assert fal.read_poll(ACCOUNT, asked_, Head(202), raw({"status": "IN_PROGRESS"})) is None
    more = fal.read_poll(ACCOUNT, asked_, OK, raw({"status": "COMPLETED", "request_id": "t1"}))
    assert more is not None
    assert more.url == "https://api.example/fal-ai/flux/requests/t1"
    assert fal.read_poll(ACCOUNT, asked_, OK, raw({"images": [{"url": PICTURE}]})) is None
    # The result of a request that failed: the status is an error, the body says why.
    assert fal.read_poll(ACCOUNT, asked_, Head(422), raw({"detail": "bad prompt"})) is None
    with pytest.raises(ProviderUnavailableError):
        fal.read_poll(ACCOUNT, asked_, Head(400), raw({"detail": "Request is still in progress"}))


@pytest.mark.parametrize("provider", OTHERS)
def test_a_poll_that_says_nothing_about_the_task_is_no_report(provider: Provider) -> None:
    dialect = DIALECTS[provider]
    for status, error in (
        (404, NoSuchTaskError),
        (401, ProviderUnavailableError),
        (302, ProviderUnavailableError),
        (503, ProviderUnavailableError),
    ):
        with pytest.raises(error):
            dialect.read_poll(
                ACCOUNT, task(provider), Head(status, "https://x.example"), raw({"detail": "x"})
            )
        with pytest.raises(error):
            dialect.read_poll(ACCOUNT, task(provider), Head(status), b"<html>")


def test_an_unknown_task_is_told_in_each_provider_s_words() -> None:
    unknown = {
        Provider.BFL: {"id": "t", "status": "Task not found"},
        Provider.KIE: {"code": 422, "msg": "recordInfo is null", "data": None},
    }
    for provider, body in unknown.items():
        with pytest.raises(NoSuchTaskError):
            DIALECTS[provider].read_poll(ACCOUNT, task(provider), OK, raw(body))


# Checks and keys.


def test_a_check_tells_the_credits_where_the_provider_does() -> None:
    assert DIALECTS[Provider.FAL].build_check(ACCOUNT) is None
    for provider, body, left in (
        (Provider.REPLICATE, {"type": "user", "username": "us"}, None),
        (Provider.BFL, {"credits": 12.5}, 12.5),
        (Provider.KIE, {"code": 200, "msg": "success", "data": 100}, 100.0),
    ):
        dialect = DIALECTS[provider]
        assert dialect.build_check(ACCOUNT) is not None
        assert dialect.read_check(OK, raw(body)) == left
        with pytest.raises(UnreadableError, match="no such key"):
            dialect.read_check(Head(401), raw({"detail": "no such key"}))
    with pytest.raises(UnreadableError, match="no access"):
        DIALECTS[Provider.KIE].read_check(OK, raw({"code": 401, "msg": "no access"}))


def test_keys_are_read_from_the_documented_answers() -> None:
    key = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    entries = [{"kty": "OKP", "crv": "Ed25519", "x": key}, {"kty": "RSA"}, 7]
    assert DIALECTS[Provider.FAL].read_keys(OK, raw({"keys": entries})) == (key,)
    assert DIALECTS[Provider.REPLICATE].read_keys(OK, raw({"key": "whsec_x"})) == ("whsec_x",)
    for provider in (Provider.FAL, Provider.REPLICATE):
        assert DIALECTS[provider].build_keys(ACCOUNT) is not None
        without: list[Any] = [{}, {"keys": []}, {"key": 7}]
        for body in without:
            with pytest.raises(UnreadableError):
                DIALECTS[provider].read_keys(OK, raw(body))
    for provider in (Provider.BFL, Provider.KIE):
        assert DIALECTS[provider].build_keys(ACCOUNT) is None
