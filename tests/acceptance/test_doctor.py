"""``receiver doctor`` as an operator runs it, and how the submitter uses its result."""

import json

from installation import Installation

NAMES = [
    "configuration",
    "ledger",
    "archive",
    "workers",
    "secrets",
    "disk",
    "provider",
    "clock",
    "events",
    "public URL",
]


def test_a_running_service_is_well_and_one_that_is_stopped_gets_no_callback_asked_for(
    installation: Installation,
) -> None:
    with installation.started():
        well = installation.invoke("receiver", "doctor")
    assert (well.status, well.err) == (0, "")
    lines = well.out.splitlines()
    assert [line[2:15].strip() for line in lines] == NAMES
    # No destination gets events.
    assert all(line.startswith(("✓ ", "– events")) for line in lines), well.out
    assert f"{installation.url} leads to us" in lines[-1]

    ill = installation.invoke("receiver", "doctor", "--json")
    report = json.loads(ill.out)
    assert (ill.status, report["ok"]) == (1, False)
    assert [check["name"] for check in report["checks"]] == NAMES
    assert [check["name"] for check in report["checks"] if check["status"] == "failed"] == [
        "public URL"
    ]
    assert "start `receiver serve`" in report["checks"][-1]["remedy"]

    refused = installation.invoke("submitter", "submit", "a fox", "--mode", "webhook")
    assert (refused.status, refused.out) == (2, "")
    assert "PUBLIC_URL: the last `receiver doctor` could not reach us" in refused.err
    assert f"no answer at {installation.url.removeprefix('http://')}" in refused.err
    assert installation.sandbox.tasks() == []
    polled = installation.invoke("submitter", "submit", "a fox", "--json")
    assert polled.status == 0
    assert "--mode was not given: the result is polled" in polled.err
    (installation.folder / "jobs.jsonl").write_text(
        '{"prompt": "a wolf"}\n{"prompt": "a bear", "mode": "webhook"}\n'
    )
    batch = installation.invoke("submitter", "batch", "jobs.jsonl", "--no-wait")
    assert batch.status == 2
    assert "could not reach us through it" in batch.err
    (installation.folder / "jobs.jsonl").write_text('{"prompt": "a wolf"}\n')
    batch = installation.invoke("submitter", "batch", "jobs.jsonl", "--no-wait")
    assert batch.status == 0
    assert "lines without a mode are polled" in batch.err


def test_every_mistake_of_a_configuration_is_printed_with_its_remedy_and_status_2(
    installation: Installation,
) -> None:
    wrong = {"PORT": "none", "FETCH_ALLOW": "a/b", "EVENT_URLS": "https://hooks.example/planted"}
    done = installation.invoke("receiver", "doctor", **wrong)
    assert done.status == 2
    assert [line for line in done.out.splitlines() if line.startswith("✗ configuration")]
    for name in ("PORT", "FETCH_ALLOW", "EVENT_SECRET"):
        assert name in done.out
    assert "planted" not in done.out
    report = json.loads(installation.invoke("receiver", "doctor", "--json", **wrong).out)
    assert {check["name"] for check in report["checks"]} == {"configuration"}
    assert all(check["remedy"] for check in report["checks"])
