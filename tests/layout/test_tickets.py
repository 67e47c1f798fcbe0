"""The demo's data is what its README says: well-formed, answerable from the ticket, and fairly split."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.repository import ROOT

FOLDER = ROOT / "examples" / "data" / "support-tickets"
ALLOWED: dict[str, set[str | None]] = {
    "category": {"billing", "delivery", "return", "setup", "fault", "account"},
    "product": {"speaker", "purifier", "doorbell", "thermostat", "kettle", "vacuum", "lamp", None},
    "urgency": {"low", "normal", "high"},
}
ORDER = re.compile(r"FH-\d{5}")
SHARED_WORDS = 8


def rows(name: str) -> list[tuple[str, dict[str, Any]]]:
    parsed = [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]
    return [(row["ticket"], json.loads(row["answer"])) for row in parsed]


def runs_of_words(ticket: str) -> Iterator[tuple[str, ...]]:
    words = re.findall(r"[\w'-]+", ticket.lower())
    return (tuple(words[start : start + SHARED_WORDS]) for start in range(len(words) - SHARED_WORDS + 1))


def test_there_are_as_many_tickets_as_the_readme_says() -> None:
    assert (len(rows("train")), len(rows("validation"))) == (300, 40)


@pytest.mark.parametrize("name", ["train", "validation"])
def test_every_answer_has_the_four_keys_with_values_of_their_lists(name: str) -> None:
    assert all(list(answer) == [*ALLOWED, "order"] for _, answer in rows(name))
    assert [answer for _, answer in rows(name) if any(answer[key] not in ALLOWED[key] for key in ALLOWED)] == []


@pytest.mark.parametrize("name", ["train", "validation"])
def test_the_order_in_an_answer_is_the_one_in_the_ticket(name: str) -> None:
    assert [
        ticket for ticket, answer in rows(name) if ORDER.findall(ticket) != [answer["order"]] * bool(answer["order"])
    ] == []


@pytest.mark.parametrize("name", ["train", "validation"])
def test_the_product_in_an_answer_is_named_in_the_ticket(name: str) -> None:
    named = [(ticket, answer["product"]) for ticket, answer in rows(name) if answer["product"] is not None]
    assert [ticket for ticket, product in named if product not in ticket.lower()] == []


def test_no_ticket_stands_twice() -> None:
    tickets = [ticket for ticket, _ in rows("train") + rows("validation")]
    assert len(set(tickets)) == len(tickets)


def test_held_out_tickets_share_no_order_and_no_run_of_words_with_the_training_tickets() -> None:
    train, held_out = rows("train"), rows("validation")
    orders = {answer["order"] for _, answer in train} - {None}
    seen = {run for ticket, _ in train for run in runs_of_words(ticket)}
    assert [ticket for ticket, answer in held_out if answer["order"] in orders] == []
    assert [ticket for ticket, _ in held_out if seen & set(runs_of_words(ticket))] == []
