"""Tickets: what we signed is read back, and nothing else is, to the letter."""

import base64
import hmac
import string
from hashlib import sha256

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from itsdangerous import Signer

from receiver.errors import ProviderError, TicketError, TicketExpiredError
from receiver.ingest.tickets import CANARY, Tickets
from receiver.model import Provider, new_ref

OLD, NEW = "the-old-secret-0123456789", "the-new-secret-0123456789"
TICKETS = Tickets([NEW, OLD])
REF, OTHER_REF = "01JZ2Q7V3N0123456789ABCDEF", "01JZ2Q7V3N0123456789ABCDEG"
TICKET = TICKETS.sign(REF)
BASE64URL = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"


def is_refused(ticket: str) -> bool:
    try:
        TICKETS.ref(ticket)
    except TicketError:
        return True
    return False


def other_spellings() -> list[str]:
    """Return tickets with another last character that base64 decodes to the same signature."""
    signature = TICKET.partition(".")[2]
    raw = base64.urlsafe_b64decode(signature + "=")
    spellings = [signature[:-1] + last for last in BASE64URL]
    same = [
        text
        for text in spellings
        if text != signature and base64.urlsafe_b64decode(text + "=") == raw
    ]
    return [f"{REF}.{text}" for text in same]


FORGED = {
    "empty": "",
    "a dot": ".",
    "only the ref": REF,
    "no signature": f"{REF}.",
    "truncated": TICKET[:-1],
    "truncated in front": TICKET[1:],
    "longer": TICKET + "A",
    "padded": TICKET + "=",
    "lower case": TICKET.lower(),
    "ref in lower case": REF.lower() + TICKET[len(REF) :],
    "signature in the other case": REF + TICKET[len(REF) :].swapcase(),
    "another job's signature": OTHER_REF + TICKET[len(REF) :],
    "signed by a stranger": Tickets(["a-stranger's-secret-0123"]).sign(REF),
    "signed for another purpose": Signer(
        NEW, salt="something else", digest_method=sha256, key_derivation="hmac"
    )
    .sign(REF)
    .decode(),
    "signed text that is no ref": Signer(
        NEW, salt="callback-ticket", digest_method=sha256, key_derivation="hmac"
    )
    .sign("x")
    .decode(),
    "trailing newline": TICKET + "\n",
    "trailing carriage return": TICKET + "\r",
    "trailing space": TICKET + " ",
    "leading space": " " + TICKET,
    "trailing NUL": TICKET + "\0",
    "trailing slash": TICKET + "/",
    "leading slash": "/" + TICKET,
    "slash inside": TICKET.replace(".", "/"),
    "two dots": TICKET.replace(".", ".."),
    "another separator": TICKET.replace(".", ":"),
    "percent-encoded": TICKET.replace(".", "%2E"),
    "full-width digit": TICKET.replace("0", "\uff10", 1),
    "Arabic digit": TICKET.replace("0", "\u0660", 1),
    "combining accent": TICKET + "\u0301",
    "zero-width space": "\u200b" + TICKET,
    "lone surrogate": TICKET[:-1] + "\ud800",
    "standard base64": TICKET[: len(REF) + 1] + "+" * 43,
    "twice": f"{TICKET}.{TICKET}",
    "very long": TICKET * 10_000,
}


@pytest.mark.parametrize("ticket", FORGED.values(), ids=FORGED)
def test_a_forged_ticket_is_refused(ticket: str) -> None:
    assert is_refused(ticket)


def test_another_spelling_of_the_same_signature_is_refused() -> None:
    assert len(other_spellings()) == 3
    assert all(map(is_refused, other_spellings()))


@given(place=st.integers(0, len(TICKET) - 1), put=st.text(max_size=2), cut=st.integers(0, 2))
@example(place=0, put="", cut=1)
@example(place=len(TICKET) - 1, put="", cut=1)
def test_any_mutation_is_refused(place: int, put: str, cut: int) -> None:
    mutated = TICKET[:place] + put + TICKET[place + cut :]
    assert is_refused(mutated) is (mutated != TICKET)


@given(st.text())
def test_any_text_is_refused_without_another_error(text: str) -> None:
    assert is_refused(text)


def test_the_refusal_does_not_repeat_the_ticket() -> None:
    with pytest.raises(TicketError, match=r"^this ticket was not made by us$"):
        TICKETS.ref(TICKET + "x")


@given(st.floats(0, 2**48 / 1000 - 1))
def test_a_signed_ref_is_read_back(now: float) -> None:
    ref = new_ref(now)
    ticket = TICKETS.sign(ref)
    assert TICKETS.ref(ticket) == ref
    assert set(ticket) <= {*BASE64URL, "."}, "it needs no escapes in a URL"


def test_the_first_secret_signs_and_all_verify_until_they_are_taken_away() -> None:
    of_old, of_new = Tickets([OLD]).sign(REF), Tickets([NEW]).sign(REF)
    assert TICKETS.sign(REF) == of_new != of_old
    assert {TICKETS.ref(ticket) for ticket in (of_old, of_new)} == {REF}
    with pytest.raises(TicketError):
        Tickets([NEW]).ref(of_old)


def test_a_ticket_is_valid_for_its_lifetime_and_the_canary_for_ever() -> None:
    now = [1_000_000.0]
    tickets = Tickets([NEW], lifetime=60, now=lambda: now[0])
    of_now, of_future = (tickets.sign(new_ref(at)) for at in (now[0], now[0] + 3600))
    now[0] += 59.9
    assert tickets.ref(of_now) == of_now.partition(".")[0]
    now[0] += 0.2
    with pytest.raises(TicketExpiredError, match="older than TICKET_LIFETIME") as error:
        tickets.ref(of_now)
    assert error.value.ref == of_now.partition(".")[0]
    assert tickets.ref(of_future), "the clock may have been set back since"
    assert tickets.ref(tickets.sign(CANARY)) == CANARY


@pytest.mark.parametrize(
    "ticket",
    [TICKET, TICKETS.sign(OTHER_REF), *FORGED.values()],
    ids=["ours", "of the older secret", *FORGED],
)
def test_whatever_is_asked_the_same_is_computed(
    ticket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[tuple[int, int]] = []
    sign, compare = hmac.digest, hmac.compare_digest

    def counted_sign(key: bytes, message: bytes, digest: str) -> bytes:
        computed.append((len(message), 0))
        return sign(key, message, digest)

    def counted_compare(one: bytes, other: bytes) -> bool:
        computed.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr("receiver.ingest.tickets.hmac.digest", counted_sign)
    monkeypatch.setattr("receiver.ingest.tickets.hmac.compare_digest", counted_compare)
    is_refused(ticket)
    assert computed == [(26, 0), (70, 70)] * 2, (
        "a signature and a comparison for each secret, over texts of one length"
    )


# Tickets for other providers.


@pytest.mark.parametrize("provider", [one for one in Provider if one is not Provider.GRSAI])
def test_a_ticket_names_the_provider_that_may_call_it(provider: Provider) -> None:
    ticket, _ = TICKETS.issue(REF, provider)
    assert TICKETS.read(ticket) == (REF, provider)
    assert Tickets([OLD, NEW]).read(ticket) == (REF, provider)
    for other in Provider:
        if other is not provider:
            assert is_refused(ticket.replace(f"-{provider}.", f"-{other}."))
    assert is_refused(ticket.replace(f"-{provider}.", "."))
    assert is_refused(TICKET.replace(".", f"-{provider}."))


def test_a_ticket_of_a_provider_that_a_later_release_knows_says_so() -> None:
    ticket, _ = TICKETS.issue(REF, "later")  # type: ignore[arg-type]  # a word of a later release
    with pytest.raises(ProviderError, match="does not know the provider 'later'"):
        TICKETS.read(ticket)


def test_an_ordinary_ticket_is_grsai_s() -> None:
    assert TICKETS.read(TICKET) == (REF, Provider.GRSAI)
    assert TICKETS.issue(REF, Provider.GRSAI)[0] == TICKET


def test_a_job_s_secret_is_its_own_and_comes_from_each_callback_secret() -> None:
    new, old = TICKETS.job_secrets(REF)
    assert (new,) == Tickets([NEW]).job_secrets(REF)
    assert (old,) == Tickets([OLD]).job_secrets(REF)
    assert len({new, old, *TICKETS.job_secrets(OTHER_REF)}) == 4
    assert TICKET.partition(".")[2] not in {new, old}
