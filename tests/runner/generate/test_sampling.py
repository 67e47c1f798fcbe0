"""What is drawn, how often, and that only the seed decides it."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from llm_api.config import Generation
from llm_runner.generate.decode import Request
from llm_runner.generate.draw import pick
from llm_runner.generate.rows import RowPlan, build_rows
from llm_runner.generate.special import SpecialTokens
from llm_runner.generate.steering import build_steering
from torch import Tensor

from tests.support.generation import PROMPTS, answer, answer_with, build_decoder, draw_firsts, lively_model, next_logits

PROMPT = PROMPTS[0]
DRAWS = 3000
WIDE = {"temperature": 1.0, "top_k": 1000}
"""Nothing is narrowed down: drawn from all that the model says."""


def probabilities(temperature: float = 1.0) -> Tensor:
    return (next_logits(PROMPT) / temperature).softmax(0)


def assert_drawn_from(drawn: list[int], kept: Tensor, whole: Tensor) -> None:
    """Only from ``kept``, and each about as often as its share: within five standard deviations."""
    assert set(drawn) <= set(kept.tolist())
    shares = whole[kept] / whole[kept].sum()
    counts = Counter(drawn)
    for token, share in zip(kept.tolist(), shares.tolist(), strict=True):
        deviation = math.sqrt(DRAWS * share * (1 - share)) + 1
        assert abs(counts[token] - DRAWS * share) < 5 * deviation


@pytest.mark.proves("generation.temperature")
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_tokens_are_drawn_by_their_probability_at_the_temperature(temperature: float) -> None:
    drawn = draw_firsts(PROMPT, DRAWS, temperature=temperature, top_k=1000)
    assert_drawn_from(drawn, torch.arange(258), probabilities(temperature))


def test_unwritten_the_temperature_is_a_tenth_and_fifty_tokens_are_drawn_from() -> None:
    assert draw_firsts(PROMPT, 200) == draw_firsts(PROMPT, 200, do_sample=True, temperature=0.1, top_k=50)
    assert draw_firsts(PROMPT, 200) != draw_firsts(PROMPT, 200, temperature=0.2)


@pytest.mark.proves("generation.temperature")
def test_a_temperature_of_zero_is_greedy_even_where_sampling_is_written() -> None:
    greedy = answer(do_sample=False, max_new_tokens=10)
    assert answer(do_sample=True, temperature=0, max_new_tokens=10) == greedy


@pytest.mark.proves("generation.do_sample")
def test_do_sample_draws_and_its_opposite_does_not() -> None:
    assert len(set(draw_firsts(PROMPT, 100, **WIDE))) > 10
    assert set(draw_firsts(PROMPT, 100, do_sample=False, **WIDE)) == {int(next_logits(PROMPT).argmax())}


@pytest.mark.proves("generation.top_k")
def test_top_k_draws_from_the_k_likeliest() -> None:
    assert_drawn_from(
        draw_firsts(PROMPT, DRAWS, temperature=1.0, top_k=4), probabilities().topk(4).indices, probabilities()
    )


@pytest.mark.proves("generation.top_p")
def test_top_p_draws_from_the_likeliest_that_make_up_p() -> None:
    order = probabilities().argsort(descending=True)
    before = probabilities()[order].cumsum(0) - probabilities()[order]
    assert_drawn_from(draw_firsts(PROMPT, DRAWS, **WIDE, top_p=0.5), order[before < 0.5], probabilities())


@pytest.mark.proves("generation.typical_p")
def test_typical_p_draws_from_those_whose_surprise_is_nearest_to_the_expected() -> None:
    log_probs = next_logits(PROMPT).log_softmax(0)
    expected_surprise = -(log_probs.exp() * log_probs).sum()
    order = (-log_probs - expected_surprise).abs().argsort()
    before = probabilities()[order].cumsum(0) - probabilities()[order]
    kept = order[before < 0.4]
    assert_drawn_from(draw_firsts(PROMPT, DRAWS, **WIDE, typical_p=0.4), kept, probabilities())
    assert int(next_logits(PROMPT).argmax()) not in kept


@pytest.mark.proves("generation.epsilon_cutoff")
def test_epsilon_cutoff_draws_from_those_of_at_least_that_probability() -> None:
    kept = (probabilities() >= 0.02).nonzero().flatten()
    assert 1 < len(kept) < 50
    assert_drawn_from(draw_firsts(PROMPT, DRAWS, **WIDE, epsilon_cutoff=0.02), kept, probabilities())


@pytest.mark.proves("generation.eta_cutoff")
def test_eta_cutoff_lowers_its_bound_with_the_entropy() -> None:
    whole = probabilities()
    entropy = -(whole * whole.log()).sum()
    bound = min(0.1, math.sqrt(0.1) * math.exp(-float(entropy)))
    kept = (whole >= bound).nonzero().flatten()
    assert 1 < len(kept) < 100
    assert bound < 0.1
    assert_drawn_from(draw_firsts(PROMPT, DRAWS, **WIDE, eta_cutoff=0.1), kept, whole)


@pytest.mark.parametrize(
    "narrow",
    [{"top_k": 1}, {"top_p": 0.0}, {"epsilon_cutoff": 0.99}, {"temperature": 1e-6}],
    ids=str,
)
def test_the_narrowest_choice_is_the_likeliest_token(narrow: dict[str, Any]) -> None:
    assert answer(**{**WIDE, **narrow}, max_new_tokens=8) == answer(do_sample=False, max_new_tokens=8)


def test_the_narrowest_typical_choice_is_one_token() -> None:
    assert len(set(draw_firsts(PROMPT, 100, **WIDE, typical_p=0.0))) == 1


@pytest.mark.parametrize("off", [{"top_p": 1.0}, {"typical_p": 1.0}, {"epsilon_cutoff": 0.0}, {"eta_cutoff": 0.0}])
def test_a_value_that_narrows_nothing_changes_no_draw(off: dict[str, Any]) -> None:
    assert draw_firsts(PROMPT, 300, **WIDE, **off) == draw_firsts(PROMPT, 300, **WIDE)


@pytest.mark.proves("generation.renormalize_logits")
@pytest.mark.parametrize("renormalizes", [True, False])
def test_probabilities_add_up_to_one_again_only_where_it_is_asked_for(renormalizes: bool) -> None:
    generation = Generation(temperature=1.0, top_k=5, renormalize_logits=renormalizes)
    rows = build_rows([RowPlan(PROMPT, 5)], pad_id=1)
    steering = build_steering(generation, rows, SpecialTokens((1,), 1, 0), lively_model())
    scores = steering(torch.tensor([PROMPT]), next_logits(PROMPT).log_softmax(0)[None])
    assert (abs(float(scores.exp().sum()) - 1) < 1e-5) == renormalizes


def test_renormalizing_changes_which_of_the_drawn_beams_is_best() -> None:
    written = {"num_beams": 4, "top_k": 3, "temperature": 1.0, "max_new_tokens": 8, "eos_token_id": list(range(64))}
    assert answer(renormalize_logits=True, **written) != answer(renormalize_logits=False, **written)


def test_each_place_of_an_answer_is_drawn_anew() -> None:
    """At a temperature without end all tokens are equally likely, whatever stands before them."""
    decoder = build_decoder(temperature=1e9, top_k=1000, max_new_tokens=2, bad_words_ids=[[1]])
    drawn = [answers[0] for answers in decoder.answer([Request(PROMPT, seed=seed) for seed in range(DRAWS)])]
    mean, repeats = DRAWS / 257, sum(one == other for one, other in drawn)
    assert abs(repeats - mean) < 5 * math.sqrt(mean)
    assert len({second for _, second in drawn}) == 257


def test_a_seed_gives_the_same_answer_each_time_and_another_seed_another() -> None:
    decoder = build_decoder(max_new_tokens=12, **WIDE)
    first, again, other = (decoder.answer([Request(PROMPT, seed=seed)]) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_further_answers_to_a_request_differ_and_repeat_and_the_first_is_the_single_one() -> None:
    decoder = build_decoder(max_new_tokens=12, **WIDE)
    several = decoder.answer([Request(PROMPT, seed=7), Request(PROMPTS[1], seed=7)], answers=3)
    assert [len(of_prompt) for of_prompt in several] == [3, 3]
    assert len({tuple(ids) for of_prompt in several for ids in of_prompt}) == 6
    assert several == decoder.answer([Request(PROMPT, seed=7), Request(PROMPTS[1], seed=7)], answers=3)
    assert several[0][0] == decoder.answer([Request(PROMPT, seed=7)])[0][0]


def test_what_torch_is_seeded_with_neither_matters_nor_changes() -> None:
    decoder = build_decoder(max_new_tokens=12, **WIDE)
    answers = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        answers.append(answer_with(decoder))
        assert torch.equal(torch.get_rng_state(), before)
    assert answers[0] == answers[1]


def test_a_token_without_probability_is_never_picked_at_either_edge() -> None:
    scores = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]] * 2)
    assert pick(scores, torch.tensor([0.0, 1 - 2**-24])).tolist() == [1, 3]
