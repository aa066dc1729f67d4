"""Random histories of two machines: crashes, slow workers, operators, pruning."""

import os
from pathlib import Path

import pytest
from examples import scaled
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from ledger_machine import LedgerMachine

pytestmark = pytest.mark.both_databases

# `make prove` asks for more.
EXAMPLES = int(os.environ.get("MACHINE_EXAMPLES", scaled(3)))


def test_whatever_two_machines_do_in_whatever_order_the_promises_are_kept(
    ledger_url: str, sqlite_template: Path
) -> None:
    class Machine(LedgerMachine):
        url, template = ledger_url, sqlite_template

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
