"""What a decoder does besides choosing tokens: when it ends, what it reads, which tokens are special, and refusals."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from llm_api.config import Generation
from llm_runner.errors import ConfigInvalid
from llm_runner.generate.decode import Decoder, Request
from llm_runner.generate.limits import AnswerLimits, PromptTooLong
from llm_runner.model.silence import peft_silenced
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel
from transformers.generation import stopping_criteria

from tests.support.generation import END, PROMPTS, answer, answer_with, build_decoder, follow, lively_model
from tests.support.models import CONTEXT_LENGTH, build_model, llama_config, tiny_tokenizer

STRATEGIES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "drawn": {"temperature": 1.0},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
    "beams": {"num_beams": 3, "do_sample": False},
    "drawn beams": {"num_beams": 3, "temperature": 1.0},
}


@contextmanager
def watched(model: Any) -> Iterator[list[int]]:
    """How many tokens each forward pass reads of each row."""
    reads: list[int] = []

    def note(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        reads.append(inputs["input_ids"].shape[1])

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield reads
    finally:
        hook.remove()


@pytest.mark.proves("generation.max_time")
@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=list(STRATEGIES))
def test_max_time_ends_an_answer_after_the_pass_that_it_falls_into(
    strategy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched(lively_model()) as reads:
        monkeypatch.setattr(stopping_criteria, "time", SimpleNamespace(time=lambda: 0.1 * len(reads)))
        answers = answer(max_new_tokens=200, max_time=0.35, bad_words_ids=[[END]], **strategy)
    assert {len(ids) for ids in answers} <= {4, 3}
    assert len(reads) == 4


@pytest.mark.proves("generation.use_cache")
@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=list(STRATEGIES))
def test_with_a_cache_a_token_is_read_once_and_without_the_whole_text_each_time(strategy: dict[str, Any]) -> None:
    written = {"max_new_tokens": 5, "bad_words_ids": [[END]], **strategy}
    with watched(lively_model()) as cached:
        kept = answer(PROMPTS[:1], use_cache=True, **written)
    with watched(lively_model()) as whole:
        read_again = answer(PROMPTS[:1], use_cache=False, **written)
    assert kept == read_again
    assert cached[:4] == [4, 1, 1, 1]
    assert whole[:4] == [4, 5, 6, 7]


REPEATING = [0, *[20, 21, 22, 23, 24, 25, 26, 27] * 3, 20, 21]


def copying(tokens: int | None, prompts: list[list[int]], **generation: Any) -> tuple[list[list[int]], int]:
    """Answers that repeat the prompt, and how many passes they took."""
    bias = [[[before, before + 1 if before < 27 else 20], 20.0] for before in range(20, 28)]
    with watched(lively_model()) as reads:
        answers = answer(prompts, prompt_lookup_num_tokens=tokens, sequence_bias=bias, max_new_tokens=16, **generation)
    return answers, len(reads)


@pytest.mark.proves("generation.prompt_lookup_num_tokens")
@pytest.mark.parametrize(
    "strategy", [{"do_sample": False}, {"temperature": 1.0, "top_k": 1000}], ids=["greedy", "drawn"]
)
def test_prompt_lookup_takes_fewer_passes_to_the_same_answer(strategy: dict[str, Any]) -> None:
    plain, plain_passes = copying(None, [REPEATING], **strategy)
    looked_up, passes = copying(4, [REPEATING], **strategy)
    assert looked_up == plain
    assert passes < plain_passes / 2
    assert copying(0, [REPEATING], **strategy) == (plain, plain_passes)


@pytest.mark.parametrize(
    ("written", "prompts", "why"),
    [
        ({"do_sample": False}, PROMPTS, "one prompt at a time"),
        ({"do_sample": False, "use_cache": False}, PROMPTS[:1], "use_cache"),
        ({"do_sample": False, "num_beams": 2}, PROMPTS[:1], "no beams"),
        ({"penalty_alpha": 0.6, "top_k": 4}, PROMPTS[:1], "no contrastive search"),
    ],
    ids=["batch", "no cache", "beams", "contrastive"],
)
def test_where_prompt_lookup_can_not_work_it_is_left_out_and_that_is_said_once(
    written: dict[str, Any], prompts: list[list[int]], why: str
) -> None:
    said: list[str] = []
    generation = Generation(prompt_lookup_num_tokens=4, max_new_tokens=6, **written)
    limits = AnswerLimits(generation, CONTEXT_LENGTH)
    decoder = Decoder(lively_model(), tiny_tokenizer(), generation, limits, warn=said.append)
    answers = [answer_with(decoder, prompts), answer_with(decoder, prompts)]
    assert answers == [answer(prompts, max_new_tokens=6, **written)] * 2
    assert len(said) == 1
    assert "generation.prompt_lookup_num_tokens" in said[0]
    assert why in said[0]


def damaged_model() -> PreTrainedModel:
    """One of its logits is no number, whatever it reads."""
    model: Any = build_model(llama_config(initializer_range=0.3), seed=1)
    with torch.no_grad():
        model.lm_head.weight[200] = torch.nan
    return model  # type: ignore[no-any-return]


@pytest.mark.proves("generation.remove_invalid_values")
@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=list(STRATEGIES))
def test_values_that_are_no_numbers_are_mended_where_that_is_written_and_else_told(strategy: dict[str, Any]) -> None:
    written = {"max_new_tokens": 6, "suppress_tokens": [200], "eos_token_id": 257, **strategy}
    with pytest.raises(ConfigInvalid, match=r"generation\.remove_invalid_values"):
        answer_with(build_decoder(damaged_model(), **{**written, "suppress_tokens": None}))
    mended = answer_with(build_decoder(damaged_model(), remove_invalid_values=True, **written))
    assert mended == answer(**written)


def test_a_choice_of_nothing_is_told() -> None:
    with pytest.raises(ConfigInvalid, match="nothing is left to say"):
        answer(suppress_tokens=list(range(258)), max_new_tokens=3)


@pytest.mark.proves("generation.eos_token_id")
def test_the_tokenizers_end_ends_an_answer_unless_another_is_written() -> None:
    plain = follow(PROMPTS[0], 10, ends=())
    assert answer(PROMPTS[:1], do_sample=False, max_new_tokens=10, eos_token_id=plain[4])[0] == plain[:4]
    assert answer(PROMPTS[:1], do_sample=False, max_new_tokens=10, eos_token_id=[plain[6], plain[2]])[0] == plain[:2]
    own_end = {"sequence_bias": [[[END], 30.0]], "do_sample": False, "max_new_tokens": 5}
    assert answer(PROMPTS[:1], **own_end) == [[]]
    assert answer(PROMPTS[:1], eos_token_id=257, **own_end) == [[END] * 5]


def test_an_end_that_only_the_models_own_config_names_ends_an_answer_too() -> None:
    model: Any = build_model(llama_config(initializer_range=0.3), seed=1)
    plain = follow(PROMPTS[0], 10, ends=())
    model.generation_config.eos_token_id = [END, plain[3]]
    decoder = build_decoder(model, do_sample=False, max_new_tokens=10)
    assert answer_with(decoder, PROMPTS[:1])[0] == plain[:3]


@pytest.mark.proves("generation.pad_token_id")
def test_padding_is_what_is_written_and_changes_no_answer() -> None:
    decoder = build_decoder(do_sample=False, max_new_tokens=10, pad_token_id=77)
    assert decoder.special.pad_id == 77
    assert answer_with(decoder) == answer(do_sample=False, max_new_tokens=10, pad_token_id=5)


@pytest.mark.proves("generation.bos_token_id")
@pytest.mark.parametrize(("written", "first"), [({}, 0), ({"bos_token_id": 33}, 33)], ids=["tokenizer's", "written"])
def test_an_empty_prompt_begins_with_the_beginning_of_a_text(written: dict[str, Any], first: int) -> None:
    given = {"do_sample": False, "max_new_tokens": 8}
    assert answer([[], PROMPTS[0]], **written, **given) == answer([[first], PROMPTS[0]], **given)


def test_tokens_that_the_model_does_not_have_are_all_refused_at_once() -> None:
    with pytest.raises(ConfigInvalid) as refused:
        build_decoder(
            bad_words_ids=[[5, 300]], sequence_bias=[[[301], 1.0]], forced_decoder_ids=[[0, 302]], pad_token_id=303,
            eos_token_id=[1, 304], suppress_tokens=[305],
        )  # fmt: skip
    assert all(str(token) in str(refused.value) for token in range(300, 306))
    assert "the model's tokens are numbered 0 to 257" in str(refused.value)


def test_a_prompt_as_long_as_the_context_is_told_by_how_much_and_others_are_answered() -> None:
    decoder = build_decoder(max_new_tokens=5)
    with pytest.raises(PromptTooLong, match=r"the prompt has 256 tokens, .* shorten it by 1 or more"):
        decoder.answer([Request([7] * 256)])
    assert len(decoder.answer([Request([7] * 255)])[0][0]) == 1


def test_an_adapter_answers_without_being_merged() -> None:
    base_model = build_model(llama_config(initializer_range=0.3), seed=1)
    with peft_silenced():
        tuned: Any = get_peft_model(base_model, LoraConfig(init_lora_weights=False))
    tuned.eval()
    decoder = build_decoder(tuned, do_sample=False, max_new_tokens=8)
    with tuned.disable_adapter():
        base = answer_with(decoder)
    assert base == answer(do_sample=False, max_new_tokens=8)
    assert answer_with(decoder) != base


def test_more_than_one_answer_is_refused_where_a_search_has_one() -> None:
    with pytest.raises(ConfigInvalid, match="2 answers to a prompt"):
        build_decoder(penalty_alpha=0.6, top_k=4).answer([Request(PROMPTS[0])], answers=2)
