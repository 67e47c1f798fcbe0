"""What parameters do to single tokens: to greedy answers the same as in their plainest form, alone and in a batch."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.generation import END, PROMPTS, Change, answer, answer_alone, follow, lively_model, next_logits

MOST = 10
BANNED = -math.inf
PLAIN = [follow(prompt, MOST) for prompt in PROMPTS]
A, B, C = PLAIN[0][:3]
"""How the plain answer to the first prompt begins."""


def without(logits: Tensor, tokens: list[int]) -> Tensor:
    changed = logits.clone()
    changed[tokens] = BANNED
    return changed


def only(logits: Tensor, tokens: list[int]) -> Tensor:
    others = [token for token in range(len(logits)) if token not in tokens]
    return without(logits, others)


def plus(logits: Tensor, token: int, bias: float) -> Tensor:
    changed = logits.clone()
    changed[token] += bias
    return changed


def repetition(prompt: list[int]) -> Change:
    def change(ids: list[int], logits: Tensor) -> Tensor:
        changed = logits.clone()
        for token in {*prompt, *ids}:
            changed[token] = logits[token] / 1.5 if logits[token] > 0 else logits[token] * 1.5
        return changed

    return change


def prompt_favour(prompt: list[int]) -> Change:
    def change(ids: list[int], logits: Tensor) -> Tensor:
        changed = logits.clone()
        for token in set(prompt):
            changed[token] = logits[token] * 2.5 if logits[token] > 0 else logits[token] / 2.5
        return changed

    return change


def no_bigram_twice(prompt: list[int]) -> Change:
    def change(ids: list[int], logits: Tensor) -> Tensor:
        text = [*prompt, *ids]
        return without(logits, [after for before, after in pairwise(text) if before == text[-1]])

    return change


def no_token_twice(prompt: list[int]) -> Change:
    return lambda ids, logits: without(logits, [*prompt, *ids])


def guided(prompt: list[int]) -> Change:
    def change(ids: list[int], logits: Tensor) -> Tensor:
        unguided = next_logits([prompt[-1], *ids]).log_softmax(0)
        return unguided + 1.8 * (logits.log_softmax(0) - unguided)

    return change


def growing_end(prompt: list[int]) -> Change:
    def change(ids: list[int], logits: Tensor) -> Tensor:
        return plus(logits, END, float(logits[END].abs()) * (1.6 ** max(len(ids) - 3, 0) - 1))

    return change


@dataclass(frozen=True)
class Case:
    """A parameter, and what it means for the answer to a prompt."""

    written: dict[str, Any]
    meaning: Any

    def change(self, prompt: list[int]) -> Change:
        change: Change = self.meaning(prompt)
        return change


def for_all(change: Change) -> Any:
    return lambda prompt: change


END_LOVER = {"sequence_bias": [[[END], 30.0]]}
"""Ends at once, where it may."""


def loved_end(change: Change) -> Change:
    return lambda ids, logits: change(ids, plus(logits, END, 30.0))


CASES = {
    "repetition_penalty": Case({"repetition_penalty": 1.5}, repetition),
    "encoder_repetition_penalty": Case({"encoder_repetition_penalty": 2.5}, prompt_favour),
    "no_repeat_ngram_size of 2": Case({"no_repeat_ngram_size": 2}, no_bigram_twice),
    "no_repeat_ngram_size of 1": Case({"no_repeat_ngram_size": 1}, no_token_twice),
    "bad_words_ids of one token": Case(
        {"bad_words_ids": [[A], [B]]}, for_all(lambda ids, logits: without(logits, [A, B]))
    ),
    "bad_words_ids of two tokens": Case(
        {"bad_words_ids": [[A, B]]}, for_all(lambda ids, logits: without(logits, [B]) if ids[-1:] == [A] else logits)
    ),
    "suppress_tokens": Case({"suppress_tokens": [A, C]}, for_all(lambda ids, logits: without(logits, [A, C]))),
    "begin_suppress_tokens": Case(
        {"begin_suppress_tokens": [A]}, for_all(lambda ids, logits: logits if ids else without(logits, [A]))
    ),
    "sequence_bias of one token": Case(
        {"sequence_bias": [[[77], 4.0]]}, for_all(lambda ids, logits: plus(logits, 77, 4.0))
    ),
    "sequence_bias of two tokens": Case(
        {"sequence_bias": [[[A, 77], 20.0]]},
        for_all(lambda ids, logits: plus(logits, 77, 20.0) if ids[-1:] == [A] else logits),
    ),
    "forced_bos_token_id": Case(
        {"forced_bos_token_id": 60}, for_all(lambda ids, logits: logits if ids else only(logits, [60]))
    ),
    "forced_decoder_ids": Case(
        {"forced_decoder_ids": [[1, 61], [3, 62]]},
        for_all(lambda ids, logits: only(logits, [{1: 61, 3: 62}[len(ids)]]) if len(ids) in (1, 3) else logits),
    ),
    "forced_decoder_ids before forced_bos_token_id": Case(
        {"forced_decoder_ids": [[0, 61]], "forced_bos_token_id": 60},
        for_all(lambda ids, logits: logits if ids else only(logits, [61])),
    ),
    "forced tokens before bans": Case(
        {"forced_bos_token_id": 60, "suppress_tokens": [60]},
        for_all(lambda ids, logits: without(logits, [60]) if ids else only(logits, [60])),
    ),
    "forced_eos_token_id that doesn't end": Case(
        {"forced_eos_token_id": 63}, for_all(lambda ids, logits: only(logits, [63]) if len(ids) == MOST - 1 else logits)
    ),
    "forced_eos_token_id, one of several": Case(
        {"forced_eos_token_id": [63, 64]},
        for_all(lambda ids, logits: only(logits, [63, 64]) if len(ids) == MOST - 1 else logits),
    ),
    "exponential_decay_length_penalty": Case({"exponential_decay_length_penalty": [3, 1.6]}, growing_end),
    "guidance_scale": Case({"guidance_scale": 1.8}, guided),
    "min_new_tokens": Case(
        {"min_new_tokens": 4, **END_LOVER},
        for_all(loved_end(lambda ids, logits: without(logits, [END]) if len(ids) < 4 else logits)),
    ),
    "min_length": Case(
        {"min_length": 12, **END_LOVER},
        lambda prompt: loved_end(lambda ids, logits: without(logits, [END]) if len(prompt) + len(ids) < 12 else logits),
    ),
    "min_new_tokens before min_length": Case(
        {"min_new_tokens": 1, "min_length": 12, **END_LOVER},
        for_all(loved_end(lambda ids, logits: logits if ids else without(logits, [END]))),
    ),
}


@pytest.mark.proves(
    "generation.repetition_penalty",
    "generation.encoder_repetition_penalty",
    "generation.no_repeat_ngram_size",
    "generation.bad_words_ids",
    "generation.suppress_tokens",
    "generation.begin_suppress_tokens",
    "generation.sequence_bias",
    "generation.forced_bos_token_id",
    "generation.forced_decoder_ids",
    "generation.forced_eos_token_id",
    "generation.exponential_decay_length_penalty",
    "generation.guidance_scale",
    "generation.min_new_tokens",
    "generation.min_length",
)
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_parameter_does_what_its_plainest_form_does_alone_and_in_a_batch(case: Case) -> None:
    expected = [follow(prompt, MOST, case.change(prompt)) for prompt in PROMPTS]
    written = {"do_sample": False, "max_new_tokens": MOST, **case.written}
    assert answer_alone(**written) == expected
    assert answer(**written) == expected
    assert expected != PLAIN


def test_a_sequence_bias_means_the_same_as_a_list_and_as_a_mapping() -> None:
    written = {"do_sample": False, "max_new_tokens": MOST}
    as_list = answer(sequence_bias=[[[A, 77], 20.0], [[78], -3.0]], **written)
    assert answer(sequence_bias={f"{A},77": 20.0, "78": -3.0}, **written) == as_list


@pytest.mark.parametrize(
    "neutral",
    [
        {"repetition_penalty": 1.0},
        {"encoder_repetition_penalty": 1.0},
        {"no_repeat_ngram_size": 0},
        {"guidance_scale": 1.0},
        {"guidance_scale": 0.5},
        {"min_length": 0},
        {"sequence_bias": []},
        {"bad_words_ids": []},
        {"suppress_tokens": []},
        {"begin_suppress_tokens": []},
        {"forced_decoder_ids": []},
        {"forced_eos_token_id": []},
        {"renormalize_logits": True},
        {"remove_invalid_values": True},
        {"penalty_alpha": 0.0},
        {"diversity_penalty": 5.0},
        {"prompt_lookup_num_tokens": 0},
    ],
    ids=str,
)
def test_a_neutral_value_changes_nothing(neutral: dict[str, Any]) -> None:
    assert answer(do_sample=False, max_new_tokens=MOST, **neutral) == PLAIN


def test_the_models_own_generation_config_changes_nothing_that_is_not_written() -> None:
    model = lively_model()
    own = model.generation_config
    assert own is not None
    own.repetition_penalty, own.suppress_tokens, own.do_sample, own.temperature = 3.0, PLAIN[0], True, 5.0
    try:
        assert answer(do_sample=False, max_new_tokens=MOST) == PLAIN
        assert model.generation_config is own
    finally:
        own.repetition_penalty = own.suppress_tokens = own.do_sample = own.temperature = None


def test_equal_odds_are_kept_among_tokens_that_may_end_the_answer() -> None:
    ends = torch.tensor([63, 64])
    answers = answer(do_sample=False, max_new_tokens=3, forced_eos_token_id=[63, 64])
    likelier = [
        ends[next_logits([*prompt, *ids[:2]])[ends].argmax()] for prompt, ids in zip(PROMPTS, answers, strict=True)
    ]
    assert [ids[-1] for ids in answers] == likelier
