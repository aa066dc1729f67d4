"""What the signature of a callback proves: documented vectors, and everything that is not one.

The vectors are fixed keys and fixed bytes: those of RFC 8032 and of Standard Webhooks, and for the
others bytes that were signed with ``openssl`` by the vendor's description. No live API
was called.
"""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from signing import (
    BFL_SECRET,
    KEYS,
    NOW,
    OTHER_FAL_KEY,
    REPLICATE_SECRET,
    TASK_ID,
    USER_ID,
    Headers,
    Sender,
    Signed,
    body_of,
    public_key,
)

from receiver.model import Proof, Provider
from receiver.providers.dialect import Keys
from receiver.providers.fal.signature import key_of, verifies
from receiver.providers.registry import DIALECTS

SIGNING = [Provider.FAL, Provider.REPLICATE, Provider.BFL]  # whose signatures cover the body
ALL = [*SIGNING, Provider.KIE]


def proof(provider: Provider, signed: Signed, keys: Keys | None = None, now: float = NOW) -> Proof:
    found = DIALECTS[provider].verify(
        Headers(signed.headers), signed.body, KEYS[provider] if keys is None else keys, now
    )
    return found.proof


def genuine(provider: Provider, at: int = NOW) -> Signed:
    return Sender(provider, at).signed(body_of(provider))


# Vectors.


def test_the_vectors_of_rfc_8032_are_verified_with_keys_of_rfc_8037() -> None:
    # RFC 8032, 7.1, tests 1 and 2; the key of test 1 is that of RFC 8037, A.2.
    vectors = [
        (
            "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
            b"",
            (
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
                "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
            ),
        ),
        (
            "PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw",
            b"\x72",
            (
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
                "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
            ),
        ),
    ]
    for key, message, signature in vectors:
        assert key_of({"kty": "OKP", "crv": "Ed25519", "x": key, "kid": "any"}) == key
        assert verifies(signature, message, (key,))
        assert verifies(signature, message, (public_key(OTHER_FAL_KEY), key))  # in a rotation
        assert not verifies(signature, message + b"\n", (key,))
        assert not verifies(signature.upper(), message, (key,))


def test_the_example_of_standard_webhooks_is_verified() -> None:
    signed = Signed(
        {
            "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "webhook-timestamp": "1614265330",
            "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        },
        b'{"test": 2432232314}',
    )
    keys = Keys((REPLICATE_SECRET,))
    assert proof(Provider.REPLICATE, signed, keys, 1614265330) is Proof.BODY
    several = signed.but(webhook_signature="v2,x v1,AAAA " + signed.headers["webhook-signature"])
    assert proof(Provider.REPLICATE, several, keys, 1614265330) is Proof.BODY
    assert proof(Provider.REPLICATE, signed, keys, 1614265330 + 301) is Proof.NONE


def test_fixed_bytes_signed_by_bfl_s_description_are_verified() -> None:
    # printf '{"id": "task-1"}' | openssl dgst -sha256 -hmac a-secret-of-this-job-only
    signature = "2a162fa473840c932693d856a2d14ad8f187352dcdaecfd008e5237469d7dc90"
    signed = Signed({"X-BFL-Signature": f"sha256={signature}"}, b'{"id": "task-1"}')
    assert proof(Provider.BFL, signed) is Proof.BODY
    rotated = Keys(("the-secret-that-signs-now", BFL_SECRET))
    assert proof(Provider.BFL, signed, rotated) is Proof.BODY


def test_fixed_bytes_signed_by_kie_s_description_prove_the_task_only() -> None:
    # printf 'task-1.1800000000' | openssl dgst -sha256 -hmac a-key-of-the-settings-page -binary
    headers = {
        "X-Webhook-Timestamp": "1800000000",
        "X-Webhook-Signature": "LErYgLi1fw//YboeMgpH/MkG5IajY9h8AJNF9fR3TCU=",
    }
    for field in ("taskId", "task_id"):
        body = json.dumps({"code": 200, "data": {field: "task-1"}}).encode()
        assert proof(Provider.KIE, Signed(headers, body)) is Proof.TASK
    other = Signed(headers, b'{"code": 200, "data": {"taskId": "task-2"}}')
    assert proof(Provider.KIE, other) is Proof.NONE


# The ladder.


@pytest.mark.parametrize("provider", SIGNING)
def test_a_genuine_callback_proves_its_body(provider: Provider) -> None:
    assert proof(provider, genuine(provider)) is Proof.BODY


def test_a_genuine_callback_of_kie_proves_only_its_task_whatever_it_says() -> None:
    signed = genuine(Provider.KIE)
    altered = Signed(signed.headers, body_of(Provider.KIE, urls=("https://evil.example/x.png",)))
    assert {proof(Provider.KIE, signed), proof(Provider.KIE, altered)} == {Proof.TASK}


@pytest.mark.parametrize("provider", ALL)
def test_without_keys_the_ticket_proves_the_task(provider: Provider) -> None:
    if provider is not Provider.BFL:  # which always has the secret of its job
        assert proof(provider, genuine(provider), Keys()) is Proof.TASK
    assert proof(provider, Signed({}, body_of(provider)), Keys()) is Proof.TASK


@pytest.mark.parametrize("provider", SIGNING)
def test_a_callback_without_a_signature_proves_the_task_by_its_ticket(provider: Provider) -> None:
    assert proof(provider, Signed({}, body_of(provider))) is Proof.TASK


@pytest.mark.parametrize(
    ("provider", "sender"),
    [
        (Provider.FAL, Sender(Provider.FAL, fal_key=OTHER_FAL_KEY)),
        (Provider.FAL, Sender(Provider.FAL, user_id="somebody-else")),
        (Provider.FAL, Sender(Provider.FAL, user_id="")),
        (Provider.REPLICATE, Sender(Provider.REPLICATE, secret="whsec_AAAAAAAAAAAAAAAAAAAAAAAA")),
        (Provider.BFL, Sender(Provider.BFL, secret="the secret of another job")),
        (Provider.KIE, Sender(Provider.KIE, secret="another key")),
    ],
)
def test_a_wrong_key_or_account_proves_nothing(provider: Provider, sender: Sender) -> None:
    assert proof(provider, sender.signed(body_of(provider))) is Proof.NONE


@pytest.mark.parametrize("provider", [Provider.FAL, Provider.REPLICATE, Provider.KIE])
@pytest.mark.parametrize("late", [-301, 301, -86400, 10**9])
def test_a_stale_timestamp_proves_nothing(provider: Provider, late: int) -> None:
    signed = genuine(provider, NOW + late)
    assert proof(provider, signed) is Proof.NONE
    assert proof(provider, signed, now=NOW + late + 299) is not Proof.NONE


@pytest.mark.parametrize("provider", SIGNING)
def test_json_that_was_written_again_has_another_signature(provider: Provider) -> None:
    signed = genuine(provider)
    again = Signed(signed.headers, json.dumps(json.loads(signed.body)).encode())
    assert again.body != signed.body
    assert proof(provider, again) is Proof.NONE


def test_a_genuine_callback_of_fal_about_another_request_proves_nothing() -> None:
    other = Sender(Provider.FAL).signed(body_of(Provider.FAL, "another-request"), TASK_ID)
    assert proof(Provider.FAL, other) is Proof.NONE


def test_a_request_that_fal_tried_again_may_be_named_by_its_last_attempt() -> None:
    body = json.dumps({"request_id": TASK_ID, "gateway_request_id": "last", "status": "OK"})
    for name, proved in ((TASK_ID, Proof.BODY), ("last", Proof.BODY), ("other", Proof.NONE)):
        assert proof(Provider.FAL, Sender(Provider.FAL).signed(body.encode(), name)) is proved


def test_an_unknown_account_at_fal_is_named_so_that_it_can_be_learnt() -> None:
    keys = Keys(KEYS[Provider.FAL].values)
    signed = genuine(Provider.FAL)
    found = DIALECTS[Provider.FAL].verify(Headers(signed.headers), signed.body, keys, NOW)
    assert (found.proof, found.user_id, found.provider_id) == (Proof.TASK, USER_ID, TASK_ID)


def test_a_timestamp_has_one_spelling() -> None:
    for spelling in ("0{}", "+{}", " {}", "{} ", "{}.0", "{}e0", "１{}"):
        signed = genuine(Provider.FAL)
        other = signed.but(X_Fal_Webhook_Timestamp=spelling.format(NOW))
        assert proof(Provider.FAL, other) is Proof.NONE


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {},
        {"x": "short"},
        {"x": 7},
        {"x": "!" * 43},
        {"crv": "X25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
    ],
)
def test_what_is_no_ed25519_key_is_left_out(entry: object) -> None:
    assert key_of(entry) is None


# Properties.


@pytest.mark.parametrize("provider", SIGNING)
@given(data=st.data())
def test_a_byte_changed_anywhere_never_proves_a_body(
    provider: Provider, data: st.DataObject
) -> None:
    signed = genuine(provider)
    name = data.draw(st.sampled_from([*signed.headers, "body"]))
    raw = bytearray(signed.body if name == "body" else signed.headers[name].encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    if name == "body":
        changed = Signed(signed.headers, bytes(raw))
    else:
        changed = Signed({**signed.headers, name: raw.decode("latin-1")}, signed.body)
    assert proof(provider, changed) is not Proof.BODY


@pytest.mark.parametrize("provider", ALL)
@given(data=st.data())
def test_no_headers_and_no_body_raise_anything(provider: Provider, data: st.DataObject) -> None:
    signed = genuine(provider)
    texts = st.text() | st.sampled_from([*signed.headers.values()])
    headers = {name: data.draw(texts) for name in signed.headers}
    body = data.draw(st.binary() | st.just(signed.body))
    if headers == signed.headers and body == signed.body:
        return
    assert proof(provider, Signed(headers, body)) is not Proof.BODY


@pytest.mark.parametrize("provider", ALL)
def test_kie_never_proves_a_body_and_a_part_of_a_signature_is_none(provider: Provider) -> None:
    signed = genuine(provider)
    for name, value in signed.headers.items():
        for part in ("", value[:-1], value[1:], value + "0", value + "=", value.swapcase()):
            if part != value:
                found = proof(provider, Signed({**signed.headers, name: part}, signed.body))
                assert found is not Proof.BODY
    digest = hashlib.sha256(signed.body).hexdigest()
    assert proof(provider, Signed({}, digest.encode())) is not Proof.BODY
