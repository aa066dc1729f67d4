"""The life of a job, explored exhaustively: the promises hold, and each rule is needed for them."""

import pytest
from explore import Found, explore
from job_model import BROKEN, PARTS, Model, Part, State
from job_promises import check, is_done


def explored(part: Part, broken: str = "") -> Found[State]:
    return explore(part.start, Model(part.workers, broken).steps, check, is_done)


@pytest.mark.parametrize("name", PARTS)
def test_whatever_happens_in_whatever_order_the_promises_are_kept(name: str) -> None:
    found = explored(PARTS[name])
    assert not found.broken, found.path
    assert found.states > 5000, "the search was cut short"


# The part of a job's life that shows what a rule is for, if it is not the first.
NEEDED_IN = {
    "no token check": "reported",
    "put overwrites": "reported",
    "the last asset's worker replaces the manifest": "the last of two",
}


@pytest.mark.parametrize("rule", BROKEN)
def test_without_this_rule_there_is_a_way_to_break_a_promise(rule: str) -> None:
    found = explored(PARTS[NEEDED_IN.get(rule, "submitted")], rule)
    assert found.broken, f"the model does not need the rule broken by: {rule}"
    assert found.broken.startswith(BROKEN[rule]), found
    assert found.path
