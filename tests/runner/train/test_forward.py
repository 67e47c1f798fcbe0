"""The flattened pass gives a model's own loss on every architecture that it is chosen for, and says why elsewhere."""

from pathlib import Path
from typing import Any

import pytest
import torch
from llm_runner.model.load import load_base
from llm_runner.model.silence import peft_silenced
from llm_runner.train.forward import FlatForward, NoisyForward, PaddedForward, choose_forward
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, PreTrainedModel

from tests.support.models import build_model, gpt2_config, llama_config, neox_config
from tests.support.rows import TokenRow, TokenRows, random_rows
from tests.support.smollm2 import smollm2_path

SIZES: dict[str, Any] = {
    "vocab_size": 258,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
WINDOW = 16
FLAT: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": WINDOW},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    "qwen3": {},
    "gemma": {},
    "gemma3_text": {"sliding_window": WINDOW, "sliding_window_pattern": 2},
    "phi3": {"sliding_window": WINDOW, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    "olmo2": {},
    "starcoder2": {"sliding_window": WINDOW},
    "mixtral": {"num_local_experts": 2, "num_experts_per_tok": 1},
}
OTHER: dict[str, dict[str, Any]] = {
    "gemma2": {"sliding_window": WINDOW},
    "granite": {"logits_scaling": 4.0},
    "cohere2": {"sliding_window": WINDOW},
    "bloom": {"n_head": 4, "n_layer": 2},
    "mamba": {"state_size": 4, "expand": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": WINDOW},
    "gpt_oss": {"sliding_window": WINDOW, "num_local_experts": 2, "num_experts_per_tok": 1},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "phi": {},
    "stablelm": {},
    "falcon": {},
}


def build(kind: str, options: dict[str, Any]) -> PreTrainedModel:
    sizes = {key: value for key, value in SIZES.items() if not (kind == "falcon" and key == "head_dim")}
    return build_model(AutoConfig.for_model(kind, **{**sizes, **options}), seed=1)


def reference_loss(model: PreTrainedModel, row: TokenRow) -> float:
    """One row by itself through the library's own forward pass."""
    ids = torch.from_numpy(row.token_ids)[None]
    logits = model(input_ids=ids, use_cache=False).logits[0].float()
    start = max(row.prompt_length, 1)
    return float(cross_entropy(logits[start - 1 : -1], ids[0, start:], reduction="sum"))


def reference_losses(model: PreTrainedModel, rows: TokenRows) -> float:
    with torch.no_grad():
        return sum(reference_loss(model, row) for row in rows.rows)


ROWS = random_rows(6, seed=2, shortest=2, longest=3 * WINDOW)


@pytest.mark.parametrize("kind", [*FLAT, *OTHER])
def test_whatever_is_chosen_for_an_architecture_gives_its_own_loss_row_by_row(kind: str) -> None:
    model = build(kind, {**FLAT, **OTHER}[kind])
    expected = reference_losses(model, ROWS)
    forward, reason = choose_forward(model)
    assert forward.pads == (reason is not None)
    assert kind not in FLAT or reason is None
    with torch.no_grad():
        found = float(forward(ROWS.rows).loss_sum)
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("build_config", [llama_config, gpt2_config, neox_config])
def test_flattened_and_padded_rows_have_the_same_loss_and_gradients(build_config: Any) -> None:
    model = build_model(build_config())
    losses = {}
    flat, reason = choose_forward(model)
    assert isinstance(flat, FlatForward), reason
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for name, forward in (("flat", flat), ("padded", PaddedForward(build_model(build_config())))):
        own = list(forward.model.parameters())
        part = forward(ROWS.rows)
        losses[name] = (part.loss_sum, part.targets, part.correct, torch.autograd.grad(part.loss_sum, own))
    assert len(trained) == len(losses["flat"][3])
    torch.testing.assert_close(losses["flat"], losses["padded"], rtol=1e-4, atol=1e-5)


def test_the_real_small_model_is_flattened_within_rounding() -> None:
    model = load_base(smollm2_path(), dtype=torch.float32)
    rows = random_rows(3, seed=4, longest=60, vocabulary=40_000)
    expected = reference_losses(model, rows)
    forward, reason = choose_forward(model)
    assert isinstance(forward, FlatForward), reason
    with torch.no_grad():
        assert float(forward(rows.rows).loss_sum) == pytest.approx(expected, rel=1e-5)


def test_a_model_that_can_not_be_flattened_keeps_its_own_attention() -> None:
    model = build("granite", OTHER["granite"])
    before = model.config._attn_implementation
    forward, reason = choose_forward(model)
    assert isinstance(forward, PaddedForward)
    assert reason
    assert model.config._attn_implementation == before


def test_layers_of_chunked_attention_are_not_taken_for_plain_ones() -> None:
    model = build("llama", {})
    model.config.layer_types = ["chunked_attention"] * 4
    forward, reason = choose_forward(model)
    assert isinstance(forward, PaddedForward)
    assert reason is not None
    assert "chunked_attention" in reason


def test_choosing_leaves_the_models_mode_as_it_was() -> None:
    model = build("llama", {})
    for training in (True, False):
        model.train(training)
        choose_forward(model)
        assert model.training is training


def test_an_adapter_on_the_output_head_counts() -> None:
    """A head with LoRA in it has the base's weight as its ``weight``: taking that would train nothing."""
    with peft_silenced():
        wrapped = get_peft_model(build("llama", {}), LoraConfig(r=2, target_modules=["lm_head"]))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model: Any = wrapped.get_base_model()
    expected = reference_losses(model, ROWS)
    forward, reason = choose_forward(model)
    assert reason is None
    part = forward(ROWS.rows)
    assert part.loss_sum.item() == pytest.approx(expected, rel=1e-4)
    part.loss_sum.backward()
    assert all(value.grad is not None for value in wrapped.parameters() if value.requires_grad)


@pytest.mark.proves("model_parameters.neftune_noise_alpha")
def test_noise_is_added_to_what_either_pass_sees_while_it_trains(llama_path: Path) -> None:
    model = load_base(llama_path, dtype=torch.float32)
    plain, _ = choose_forward(model)
    noisy = NoisyForward(model, plain, alpha=20.0)
    assert noisy.pads == plain.pads
    with torch.no_grad():
        quiet = float(plain(ROWS.rows).loss_sum)
        assert float(noisy(ROWS.rows).loss_sum) == quiet
        model.train()
        assert float(noisy(ROWS.rows).loss_sum) != quiet
        assert float(plain(ROWS.rows).loss_sum) == quiet
