"""By every strategy, in float32: a row's answer is the same alone and in any batch, repeats, and stops at its end."""

import random
from typing import Any

import pytest
from llm_runner.generate.decode import Request
from llm_runner.generate.rows import plan_batches
from transformers import PreTrainedModel

from tests.support.generation import END, PROMPTS, answer, answer_alone, answer_with, build_decoder, lively_model
from tests.support.models import build_model, gpt2_config, neox_config

ENDS = list(range(60, 90))
STRATEGIES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "multinomial": {"temperature": 1.0},
    "top-k": {"temperature": 1.0, "top_k": 5},
    "top-p": {"temperature": 1.0, "top_p": 0.6},
    "typical": {"temperature": 1.0, "typical_p": 0.6},
    "epsilon": {"temperature": 1.0, "epsilon_cutoff": 0.01},
    "eta": {"temperature": 1.0, "eta_cutoff": 0.05},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
    "beams": {"num_beams": 3, "do_sample": False},
    "drawn beams": {"num_beams": 3, "temperature": 1.0},
    "diverse beams": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "constrained beams": {"num_beams": 3, "do_sample": False, "force_words_ids": [[50, 51]]},
}
NEIGHBOURLY: dict[str, dict[str, Any]] = {
    "lengths of their own": {"max_length": 40, "min_length": 25, "forced_eos_token_id": 99},
    "all that looks at the prompt": {
        "repetition_penalty": 1.3,
        "encoder_repetition_penalty": 1.5,
        "no_repeat_ngram_size": 2,
        "sequence_bias": [[[END, 5], 9.0], [[5, 6], 9.0]],
    },
    "guidance": {"guidance_scale": 1.7},
    "ends of a length": {
        "exponential_decay_length_penalty": [2, 1.5],
        "length_penalty": 1.5,
        "early_stopping": "never",
    },
}


def written(strategy: str, **further: Any) -> dict[str, Any]:
    given = {"eos_token_id": ENDS, **STRATEGIES[strategy], **further}
    return given if "max_length" in given else {"max_new_tokens": 12, **given}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_row_is_answered_alike_alone_and_in_a_batch(strategy: str) -> None:
    assert answer(**written(strategy)) == answer_alone(**written(strategy))


@pytest.mark.parametrize("further", NEIGHBOURLY.values(), ids=list(NEIGHBOURLY))
@pytest.mark.parametrize("strategy", ["greedy", "multinomial", "contrastive", "beams", "drawn beams", "diverse beams"])
def test_neighbours_do_not_change_what_depends_on_the_prompt(strategy: str, further: dict[str, Any]) -> None:
    given = written(strategy, **further)
    assert answer(**given) == answer_alone(**given)


@pytest.mark.parametrize("strategy", ["greedy", "multinomial", "contrastive", "drawn beams"])
@pytest.mark.parametrize("model", [build_model(gpt2_config()), build_model(neox_config())], ids=["gpt2", "neox"])
def test_models_with_other_positions_answer_alike_alone_and_in_a_batch(model: PreTrainedModel, strategy: str) -> None:
    decoder = build_decoder(model, **written(strategy))
    alone = [decoder.answer([Request(prompt, seed=place)])[0][0] for place, prompt in enumerate(PROMPTS)]
    assert answer_with(decoder) == alone


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_repeats_exactly(strategy: str) -> None:
    assert answer(**written(strategy)) == answer(**written(strategy))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_answer_stops_at_its_end_and_holds_none(strategy: str) -> None:
    ended = {**written(strategy), "sequence_bias": [[[END], 30.0]], "eos_token_id": None}
    forced = len(STRATEGIES[strategy].get("force_words_ids", [[]])[0])
    assert [len(ids) for ids in answer(**ended)] == [forced] * len(PROMPTS)
    assert not any(set(ids) & set(ENDS) for ids in answer(**written(strategy)))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_an_end_an_answer_is_as_long_as_it_may_be(strategy: str) -> None:
    endless = {**written(strategy), "eos_token_id": None, "bad_words_ids": [[END]]}
    assert [len(ids) for ids in answer(**endless)] == [12] * len(PROMPTS)


@pytest.mark.parametrize("strategy", ["greedy", "contrastive", "beams", "drawn beams", "diverse beams"])
def test_each_row_has_the_length_that_its_own_prompt_leaves(strategy: str) -> None:
    endless = {**written(strategy, max_length=40), "eos_token_id": None, "bad_words_ids": [[END]]}
    assert [len(ids) for ids in answer(**endless)] == [40 - len(prompt) for prompt in PROMPTS]


def test_many_prompts_are_answered_in_batches_of_like_length_each_at_its_place() -> None:
    prompts = [[0, *random.Random(seed).choices(range(100, 200), k=1 + seed % 9)] for seed in range(11)]
    decoder = build_decoder(**written("multinomial"))
    requests = [Request(prompt, seed=seed) for seed, prompt in enumerate(prompts)]
    found = dict(decoder.answer_all(requests, batch_size=4))
    assert found == {place: decoder.answer([request])[0][0] for place, request in enumerate(requests)}


def test_batches_hold_similar_lengths_the_longest_first() -> None:
    assert plan_batches([3, 9, 1, 8, 2], batch_size=2) == [[1, 3], [0, 4], [2]]
    assert plan_batches([], batch_size=2) == []


def test_the_same_prompt_under_two_seeds_is_answered_twice_in_one_batch() -> None:
    one, other = build_decoder(lively_model(), **written("multinomial")).answer(
        [Request(PROMPTS[0], 1), Request(PROMPTS[0], 2)]
    )
    assert one != other
