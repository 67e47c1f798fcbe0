"""How the demo judges an answer: fair to a base model that wraps its JSON, strict about what stands in it."""

import json
from typing import Any

import pytest

from scripts.demo import count_exact, parse_answer

WANTED = {"category": "fault", "product": "kettle", "urgency": "high", "order": None}
ROW = {"ticket": "The kettle is on fire.", "answer": json.dumps(WANTED)}


@pytest.mark.parametrize(
    "text", ['{"order": null}', '```json\n{"order": null}\n```', 'Sure! Here it is: {"order": null} Anything else?']
)
def test_an_answer_is_found_wherever_it_stands(text: str) -> None:
    assert parse_answer(text) == {"order": None}


@pytest.mark.parametrize("text", ["", "no braces", '{"category": "fault"', "{{", "[1, 2]"])
def test_a_text_without_a_whole_object_holds_no_answer(text: str) -> None:
    assert parse_answer(text) is None


@pytest.mark.parametrize(
    ("changed", "shares"),
    [
        ({}, ["100%", "100%", "100%", "100%", "100%"]),
        ({"urgency": "normal"}, ["100%", "100%", "0%", "100%", "0%"]),
        ({"mood": "upset"}, ["100%", "100%", "100%", "100%", "0%"]),
    ],
)
def test_each_field_counts_alone_and_all_of_them_only_together(changed: dict[str, Any], shares: list[str]) -> None:
    assert count_exact([ROW], [json.dumps(WANTED | changed)]) == shares


def test_a_missing_key_is_wrong_even_where_null_is_right() -> None:
    answer = {key: value for key, value in WANTED.items() if key != "order"}
    assert count_exact([ROW], [json.dumps(answer)])[3] == "0%"
