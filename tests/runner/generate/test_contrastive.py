"""Contrastive search takes, at every step, the token that the paper's rule names."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import PreTrainedModel

from tests.support.generation import PROMPTS, answer, answer_alone, answer_with, build_decoder, lively_model
from tests.support.models import build_model, gpt2_config, neox_config

MOST = 10
STOP = 257


def hidden_and_logits(model: Any, ids: list[int]) -> tuple[Tensor, Tensor]:
    """Of the last layer, [tokens, size], and the logits after the last token."""
    with torch.no_grad():
        outputs = model(torch.tensor([ids]), output_hidden_states=True)
    return outputs.hidden_states[-1][0], outputs.logits[0, -1]


def score(model: Any, ids: list[int], token: int, probability: float, alpha: float) -> float:
    """Equation 5 of the paper, from one plain pass over the text and the candidate."""
    hidden, _ = hidden_and_logits(model, [*ids, token])
    likeness = max(float(cosine_similarity(hidden[-1], earlier, dim=0)) for earlier in hidden[:-1])
    return (1 - alpha) * probability - alpha * likeness


def follow_the_paper(model: Any, prompt: list[int], alpha: float, k: int) -> list[int]:
    ids = list(prompt)
    for _ in range(MOST):
        _, logits = hidden_and_logits(model, ids)
        top = logits.softmax(0).topk(k)
        candidates = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        best = max(candidates, key=lambda pair: score(model, ids, *pair, alpha))[0]
        if best == STOP:
            break
        ids.append(best)
    return ids[len(prompt) :]


@pytest.mark.proves("generation.penalty_alpha", "generation.top_k")
@pytest.mark.parametrize(("alpha", "k"), [(0.1, 2), (0.6, 4), (0.9, 6)])
def test_every_token_is_the_one_that_the_papers_rule_names(alpha: float, k: int) -> None:
    expected = [follow_the_paper(lively_model(), prompt, alpha, k) for prompt in PROMPTS]
    written = {"penalty_alpha": alpha, "top_k": k, "max_new_tokens": MOST, "eos_token_id": STOP}
    assert answer(**written) == expected
    assert answer_alone(**written) == expected


@pytest.mark.parametrize("model", [build_model(gpt2_config()), build_model(neox_config())], ids=["gpt2", "neox"])
def test_models_with_other_positions_follow_the_rule_too(model: PreTrainedModel) -> None:
    decoder = build_decoder(model, penalty_alpha=0.6, top_k=4, max_new_tokens=MOST, eos_token_id=STOP)
    assert answer_with(decoder) == [follow_the_paper(model, prompt, 0.6, 4) for prompt in PROMPTS]


def test_the_page_example_of_two_keys_is_contrastive_without_writing_that_it_does_not_sample() -> None:
    assert answer(penalty_alpha=0.6, top_k=4, max_new_tokens=MOST) == answer(
        penalty_alpha=0.6, top_k=4, do_sample=False, max_new_tokens=MOST
    )
    assert answer(penalty_alpha=0.6, top_k=4, max_new_tokens=MOST) != answer(do_sample=False, max_new_tokens=MOST)


def test_more_weight_on_unlikeness_means_less_repetition() -> None:
    loop = {"repetition_penalty": 0.5, "max_new_tokens": 30, "eos_token_id": STOP}
    greedy = answer(do_sample=False, **loop)
    contrastive = answer(penalty_alpha=0.8, top_k=8, **loop)
    assert sum(len(set(ids)) for ids in contrastive) > sum(len(set(ids)) for ids in greedy)


def test_what_is_forbidden_is_not_chosen_however_unlike_it_is() -> None:
    forced = answer(penalty_alpha=0.99, top_k=50, max_new_tokens=4, forced_decoder_ids=[[0, 60], [2, 61]])
    assert [(ids[0], ids[2]) for ids in forced] == [(60, 61)] * len(PROMPTS)


def test_without_a_cache_the_answers_are_the_same() -> None:
    written = {"penalty_alpha": 0.6, "top_k": 4, "max_new_tokens": MOST}
    assert answer(use_cache=False, **written) == answer(**written)


def test_as_many_candidates_as_the_vocabulary_has_are_the_most() -> None:
    assert answer(penalty_alpha=0.6, top_k=5000, max_new_tokens=3) == answer(
        penalty_alpha=0.6, top_k=258, max_new_tokens=3
    )


def test_the_weight_of_nothing_is_greedy() -> None:
    assert answer(penalty_alpha=math.ulp(0), top_k=4, max_new_tokens=MOST) == answer(
        do_sample=False, max_new_tokens=MOST
    )
