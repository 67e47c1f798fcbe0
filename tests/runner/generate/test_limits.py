"""How long answers may be, by what is written and what isn't."""

from typing import Any

import pytest
from llm_api.config import Generation, LLMConfig
from llm_runner.generate.limits import AnswerLimits, PromptTooLong, plan_answer_limits

TEXT: dict[str, Any] = {"name": "answer", "type": "text"}
LABEL: dict[str, Any] = {
    "name": "label",
    "type": "category",
    "preprocessing": {"fallback_label": "no"},
    "decoder": {"match": {"no": {"type": "contains", "value": "no"}}},
}


def most(
    generation: dict[str, Any], *, output: dict[str, Any] = TEXT, whole: int | None = None, prompt: int = 100
) -> int:
    config = LLMConfig.model_validate(
        {
            "base_model": "some/model",
            "input_features": [{"name": "prompt", "type": "text"}],
            "output_features": [output],
            "preprocessing": {} if whole is None else {"global_max_sequence_length": whole},
            "generation": generation,
        }
    )
    return plan_answer_limits(config, 1000).most_new_tokens(prompt)


def with_length(output: dict[str, Any], tokens: int) -> dict[str, Any]:
    return output | {"preprocessing": {**output.get("preprocessing", {}), "max_sequence_length": tokens}}


@pytest.mark.proves("generation.max_new_tokens")
def test_a_written_number_of_new_tokens_holds_before_all_others() -> None:
    assert most({"max_new_tokens": 7, "max_length": 500}, output=with_length(TEXT, 50), whole=300) == 7


def test_the_printed_default_holds_where_it_is_written() -> None:
    assert most({"max_new_tokens": 32}) == 32


@pytest.mark.proves("generation.max_length")
def test_a_written_length_counts_the_prompt_too() -> None:
    assert most({"max_length": 150}, output=with_length(TEXT, 500)) == 50


@pytest.mark.proves("output_features.preprocessing.max_sequence_length[text]")
def test_unwritten_an_answer_is_as_long_as_its_output_may_be() -> None:
    assert most({}, output=with_length(TEXT, 50), whole=300) == 50


@pytest.mark.proves("preprocessing.global_max_sequence_length")
def test_then_as_the_whole_sequence_leaves_after_the_prompt() -> None:
    assert most({}, whole=300) == 200


def test_then_as_the_context_leaves_after_the_prompt() -> None:
    assert most({}) == 900


@pytest.mark.proves("output_features.type", "output_features.preprocessing.max_sequence_length[category]")
def test_a_category_is_answered_in_32_tokens_or_as_many_as_its_output_may_have() -> None:
    assert (most({}, output=LABEL), most({}, output=with_length(LABEL, 5))) == (32, 5)


@pytest.mark.parametrize(
    "generation", [{"max_new_tokens": 2000}, {"max_length": 5000}, {}], ids=["new", "length", "unset"]
)
def test_no_answer_goes_past_the_context(generation: dict[str, Any]) -> None:
    assert most(generation, output=with_length(TEXT, 3000)) == 900


def test_a_null_is_the_same_as_leaving_the_key_out() -> None:
    assert most({"max_new_tokens": None, "max_length": None}, whole=300) == 200


@pytest.mark.parametrize(
    ("generation", "whole", "told"),
    [
        ({}, None, "the prompt has 1004 tokens, and the model's context allows 1000"),
        ({"max_new_tokens": 5}, 200, "the model's context allows 1000 for prompt and answer together; shorten it by 5"),
        ({"max_length": 300}, None, "generation.max_length allows 300"),
        ({}, 200, "preprocessing.global_max_sequence_length allows 200"),
    ],
    ids=["context", "context, new tokens written", "length", "whole sequence"],
)
def test_a_prompt_without_room_for_an_answer_is_told_by_how_much(
    generation: dict[str, Any], whole: int | None, told: str
) -> None:
    with pytest.raises(PromptTooLong, match=told):
        most(generation, whole=whole, prompt=1004)


def test_a_prompt_that_leaves_one_token_is_answered_with_one() -> None:
    assert most({}, prompt=999) == 1


@pytest.mark.proves("generation.min_new_tokens", "generation.min_length")
@pytest.mark.parametrize(
    ("generation", "fewest"),
    [
        ({}, 0),
        ({"min_new_tokens": 5}, 5),
        ({"min_length": 130}, 30),
        ({"min_length": 50}, 0),
        ({"min_new_tokens": 5, "min_length": 130}, 5),
        ({"min_new_tokens": 5, "max_length": 103}, 3),
    ],
    ids=str,
)
def test_a_least_length_counts_the_prompt_and_gives_way_to_new_tokens(generation: dict[str, Any], fewest: int) -> None:
    assert AnswerLimits(Generation(**generation), 1000).fewest_new_tokens(100) == fewest
