"""The small model is what demo, tests and benchmarks take it for."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from scripts.prepare_model import is_ready, prepare_model
from tests.support.smollm2 import smollm2_path


def test_the_weights_are_plain_bfloat16_with_no_mark_of_the_quantized_file_they_came_from() -> None:
    config = AutoConfig.from_pretrained(smollm2_path())
    assert config.dtype == torch.bfloat16
    assert "quantization_config" not in json.loads((smollm2_path() / "config.json").read_text())


def test_it_chats_and_stops_where_a_turn_ends() -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2_path())
    text: Any = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)
    assert text.endswith("<|im_start|>user\nHello<|im_end|>\n")
    stop = GenerationConfig.from_pretrained(smollm2_path()).eos_token_id
    assert stop == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_preparing_it_again_changes_nothing() -> None:
    weights = smollm2_path() / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert prepare_model() == smollm2_path()
    assert weights.stat().st_mtime_ns == before


def test_a_folder_without_weights_is_not_taken_for_a_model(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    assert not is_ready(tmp_path)
