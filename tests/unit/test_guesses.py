"""Guesses of ADMIN_TOKEN: how many are compared, and that those who know it are not shut out."""

from receiver.web.guesses import KNOWN_FOR, Guesses


def compared(guesses: Guesses, address: str, tries: int) -> int:
    """Send wrong tokens; return how many were compared."""
    count = 0
    for _ in range(tries):
        if not guesses.delay(address):
            guesses.wrong(address)
            count += 1
    return count


def test_an_address_has_few_guesses_and_others_still_have_theirs() -> None:
    now = [0.0]
    guesses = Guesses(clock=lambda: now[0])
    assert compared(guesses, "192.0.2.1", 1000) == 10
    assert compared(guesses, "192.0.2.2", 1000) == 10
    now[0] += 60
    assert compared(guesses, "192.0.2.1", 1000) == 10
    assert 0 < guesses.delay("192.0.2.1") <= 3


def test_many_addresses_together_have_a_limit_too() -> None:
    guesses = Guesses(clock=lambda: 0.0)
    assert sum(compared(guesses, f"192.0.2.{number}", 100) for number in range(100)) == 100


def test_a_program_that_works_is_not_stopped_by_a_stranger_behind_the_same_proxy() -> None:
    now = [0.0]
    guesses = Guesses(clock=lambda: now[0])
    guesses.right("10.0.0.1")
    assert compared(guesses, "10.0.0.1", 100) == 100
    assert guesses.delay("10.0.0.1") == 0
    assert compared(guesses, "10.0.0.1", 1000) == 200, "but not without a limit"
    now[0] += KNOWN_FOR
    assert compared(guesses, "10.0.0.1", 1000) == 10


def test_right_tokens_cost_no_guess() -> None:
    guesses = Guesses(clock=lambda: 0.0)
    for _ in range(1000):
        assert guesses.delay("192.0.2.1") == 0
        guesses.right("192.0.2.1")
