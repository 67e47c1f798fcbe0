"""The generation config of an artifact: where it stops, and which of the written options it keeps."""

from pathlib import Path
from typing import Any

import pytest
from llm_api.config import Generation
from llm_runner.model.generation import build_generation_config
from transformers import GenerationConfig, PreTrainedTokenizerBase

from tests.support.models import tiny_tokenizer

BOS_ID, EOS_ID = 0, 1


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@pytest.mark.parametrize(("base_eos", "expected"), [(None, 1), (1, 1), (9, [1, 9]), ([9, 1, 8], [1, 9, 8])])
def test_a_model_stops_at_the_tokenizers_end_and_where_the_base_did(
    tokenizer: PreTrainedTokenizerBase, base_eos: Any, expected: Any
) -> None:
    config = build_generation_config(GenerationConfig(eos_token_id=base_eos), tokenizer)
    assert (config.eos_token_id, config.pad_token_id, config.bos_token_id) == (expected, EOS_ID, BOS_ID)


def test_written_tokens_win(tokenizer: PreTrainedTokenizerBase) -> None:
    generation = Generation(eos_token_id=[5, 6], pad_token_id=7, bos_token_id=8)
    config = build_generation_config(GenerationConfig(eos_token_id=9), tokenizer, generation)
    assert (config.eos_token_id, config.pad_token_id, config.bos_token_id) == ([5, 6], 7, 8)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({}, {}),
        ({"temperature": 0.7, "top_k": 20}, {"do_sample": True, "temperature": 0.7, "top_k": 20}),
        ({"do_sample": True}, {"do_sample": True}),
        ({"temperature": 0.0, "top_p": 0.9}, {"do_sample": False}),
        ({"do_sample": False, "temperature": 0.7}, {"do_sample": False}),
        ({"max_new_tokens": 32, "repetition_penalty": 1.5}, {"max_new_tokens": 32, "repetition_penalty": 1.5}),
    ],
)
def test_only_what_is_written_and_does_not_contradict_itself_is_kept(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, written: dict[str, Any], expected: dict[str, Any]
) -> None:
    config = build_generation_config(None, tokenizer, Generation.model_validate(written))
    config.save_pretrained(tmp_path)
    kept = GenerationConfig.from_pretrained(tmp_path).to_diff_dict()
    tokens = {"eos_token_id", "pad_token_id", "bos_token_id", "transformers_version"}
    assert {key: value for key, value in kept.items() if key not in tokens} == expected
