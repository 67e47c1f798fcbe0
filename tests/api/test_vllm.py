"""What is known not to work with vLLM is refused with its path and a way out; the rest is left alone."""

from typing import Any

import pytest
from llm_api.config.partial import PartialLLMConfig
from llm_api.vllm import (
    LORA_RANKS,
    VLLM_VERSION,
    check_served_by_vllm,
    check_written_for_vllm,
    choose_max_rank,
    find_adapter_faults,
)

from tests.support.vllm import OPTIONS, RECORDED_VERSION

PLAIN = {
    "peft_type": "LORA",
    "r": 8,
    "lora_alpha": 16,
    "bias": "none",
    "use_rslora": True,
    "target_modules": ["q_proj"],
}


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"quantization": {"bits": 8}}, "quantization.bits"),
        ({"quantization": {"bits": 4, "bnb_4bit_quant_type": "fp4"}}, "quantization.bnb_4bit_quant_type"),
        (
            {"model_parameters": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}},
            "model_parameters.rope_scaling",
        ),
        ({"generation": {"num_beams": 2}}, "generation.num_beams"),
        ({"generation": {"penalty_alpha": 0.6, "top_k": 4}}, "generation.penalty_alpha"),
        ({"generation": {"no_repeat_ngram_size": 3}}, "generation.no_repeat_ngram_size"),
        ({"generation": {"suppress_tokens": [3]}}, "generation.suppress_tokens"),
    ],
)
def test_a_key_that_vllm_can_not_follow_is_refused_by_its_path(config: dict[str, Any], path: str) -> None:
    (issue,) = check_served_by_vllm(PartialLLMConfig.model_validate(config))
    assert issue.path == f"spec.config.{path}"
    assert issue.message.endswith("or write engine: transformers in spec.serve")


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"quantization": {"bits": 4}},
        {"generation": {"temperature": 0.7, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.1}},
        {"generation": {"num_beams": 1, "typical_p": 1.0, "max_new_tokens": 64, "do_sample": False}},
    ],
)
def test_what_vllm_can_do_is_left_alone(config: dict[str, Any]) -> None:
    assert list(check_written_for_vllm(PartialLLMConfig.model_validate(config))) == []


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"prompt": {"template": "{question}"}}, "prompt"),
        ({"output_features": [{"name": "answer", "type": "text"}]}, "output_features"),
        ({"adapter": {"type": "adalora"}}, "adapter.type"),
        ({"adapter": {"type": "vera"}}, "adapter.type"),
        ({"adapter": {"type": "boft"}}, "adapter.type"),
        ({"adapter": {"type": "lora", "use_dora": True}}, "adapter.use_dora"),
        ({"adapter": {"type": "lora", "bias_type": "all"}}, "adapter.bias_type"),
        ({"adapter": {"type": "lora", "r": 513}}, "adapter.r"),
    ],
)
def test_what_an_inference_says_in_vain_is_refused_though_a_fine_tune_may_bring_it(
    config: dict[str, Any], path: str
) -> None:
    written = PartialLLMConfig.model_validate(config)
    (issue,) = check_written_for_vllm(written)
    assert issue.path == f"spec.config.{path}"
    assert list(check_served_by_vllm(written)) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"peft_type": "IA3"}, "of type IA3"),
        ({"peft_type": "ADALORA"}, "of type ADALORA"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "lora_only"}, "bias: lora_only"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"r": 600}, "its rank is 600"),
    ],
)
def test_an_adapter_that_vllm_would_refuse_or_serve_wrongly_is_told_why(change: dict[str, Any], says: str) -> None:
    (fault,) = find_adapter_faults({**PLAIN, **change})
    assert says in fault
    assert find_adapter_faults(PLAIN) == []


@pytest.mark.parametrize(("rank", "offered"), [(1, 8), (8, 8), (9, 16), (65, 128), (257, 320), (512, 512)])
def test_the_rank_that_is_asked_for_is_the_least_that_vllm_offers(rank: int, offered: int) -> None:
    assert choose_max_rank(rank) == offered


def test_what_is_said_of_vllm_is_said_of_the_version_that_was_looked_up() -> None:
    assert VLLM_VERSION == RECORDED_VERSION
    assert tuple(map(int, OPTIONS["max-lora-rank"])) == LORA_RANKS
