"""Credits, costs and the destinations of events from the API."""

from pathlib import Path

import pytest
from api_jobs import archived, get, reported, submitted
from web_client import FAILED, WebClient, web_client

from receiver.settings import Settings

PRICES = {"PRICES": "*=0.25", "CURRENCY": "EUR", "EVENT_URLS": "log:"}


def test_costs_are_those_of_jobs_that_the_provider_did_not_return(tmp_path: Path) -> None:
    with web_client(tmp_path, PRICES) as web:
        archived(web, tmp_path)
        reported(web, {**FAILED, "id": "task-2"})
        submitted(web)
        found = get(web, "/api/credits").json
    (cost,) = found["costs"]
    assert (cost["jobs"], cost["free"], cost["archived"], cost["pictures"]) == (3, 1, 1, 2)
    assert (cost["cost"], found["total"], found["currency"]) == (0.5, 0.5, "EUR")
    assert sum(model["submitted"] for model in found["models"]) == 3


def test_without_prices_and_key_there_are_counts_and_the_reason(web: WebClient) -> None:
    submitted(web)
    found = get(web, "/api/credits").json
    assert (found["credits"], found["error"]) == (None, "GRSAI_API_KEY is not set")
    assert [cost["cost"] for cost in found["costs"]] == [None]


def test_the_destinations_are_listed_with_what_waits(tmp_path: Path) -> None:
    with web_client(tmp_path, PRICES) as web:
        web.services.outbox.register(["log:", "gone"])
        reported(web, FAILED)
        found = get(web, "/api/destinations").json["destinations"]
    assert [(one["destination"], one["configured"], one["not_queued"]) for one in found] == [
        ("gone", False, 1),
        ("log:", True, 1),
    ]
    assert all(one["oldest_at"] and one["success_rate"] is None for one in found)


@pytest.mark.parametrize("currency", ["EUR", "积分", "€", ""])
def test_a_currency_is_the_users_word(currency: str) -> None:
    assert Settings.load({"CURRENCY": currency}).currency == currency
