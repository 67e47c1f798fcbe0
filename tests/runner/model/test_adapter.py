"""Every key of an adapter reaches PEFT, and what is added learns; on quantized bases too."""

from pathlib import Path
from typing import Any

import pytest
import torch
from llm_api.config import AdaLoraAdapter, Ia3Adapter, LoraAdapter, Quantization
from llm_runner.errors import ConfigInvalid, TargetModulesNotFound
from llm_runner.model.adapter import Adapter, add_adapter, count_trainable, mark_trainable
from llm_runner.model.load import load_base
from llm_runner.model.peft_config import to_peft_config
from peft import AdaLoraConfig, IA3Config, LoraConfig, PeftModel
from transformers import PreTrainedModel

from tests.support.models import build_model, gpt2_config, llama_config

STEPS = 8


def lora(**keys: Any) -> LoraAdapter:
    return LoraAdapter.model_validate({"type": "lora", **keys})


def adalora(**keys: Any) -> AdaLoraAdapter:
    return AdaLoraAdapter.model_validate({"type": "adalora", **keys})


def ia3(**keys: Any) -> Ia3Adapter:
    return Ia3Adapter.model_validate({"type": "ia3", **keys})


def losses(model: PreTrainedModel | PeftModel, token_ids: torch.Tensor, rate: float = 1e-2) -> list[float]:
    """Language-model loss of a few steps on one batch; AdaLoRA's penalty is not in it."""
    model.train()
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=rate)
    trace = []
    for _ in range(STEPS):
        logits = model(input_ids=token_ids).logits[:, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), token_ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        trace.append(loss.item())
    return trace


def test_every_key_of_lora_reaches_peft() -> None:
    adapter = lora(
        r=4, alpha=6, dropout=0.25, target_modules=["q_proj", "o_proj"], use_rslora=True, bias_type="lora_only",
        init_lora_weights="gaussian", rank_pattern={"o_proj": 2}, alpha_pattern={"o_proj": 3},
    )  # fmt: skip
    config = to_peft_config(adapter, build_model(llama_config()), 10)
    assert isinstance(config, LoraConfig)
    assert (config.r, config.lora_alpha, config.lora_dropout, config.bias) == (4, 6, 0.25, "lora_only")
    assert config.target_modules == {"q_proj", "o_proj"}
    assert (config.use_rslora, config.use_dora, config.init_lora_weights) == (True, False, "gaussian")
    assert (config.rank_pattern, config.alpha_pattern) == ({"o_proj": 2}, {"o_proj": 3})


def test_what_is_not_written_is_derived() -> None:
    config = to_peft_config(lora(r=4), build_model(llama_config()), 10)
    assert isinstance(config, LoraConfig)
    assert (config.lora_alpha, config.target_modules, config.init_lora_weights) == (8, {"q_proj", "v_proj"}, True)


def test_every_key_of_adalora_reaches_peft() -> None:
    adapter = adalora(
        alpha=5, dropout=0.1, target_r=3, init_r=6, tinit=2, tfinal=4, delta_t=3, beta1=0.7, beta2=0.8,
        orth_reg_weight=0.2, total_step=50,
    )  # fmt: skip
    config = to_peft_config(adapter, build_model(llama_config()), 99)
    assert isinstance(config, AdaLoraConfig)
    assert (config.lora_alpha, config.lora_dropout, config.target_r, config.init_r) == (5, 0.1, 3, 6)
    assert (config.tinit, config.tfinal, config.deltaT, config.total_step) == (2, 4, 3, 50)
    assert (config.beta1, config.beta2, config.orth_reg_weight) == (0.7, 0.8, 0.2)


def test_adalora_plans_by_the_runs_own_steps_unless_they_are_written() -> None:
    config = to_peft_config(adalora(r=5), build_model(llama_config()), 99)
    assert isinstance(config, AdaLoraConfig)
    assert (config.total_step, config.lora_alpha) == (99, 10)


def test_adalora_without_a_step_to_give_out_ranks_in_is_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigInvalid, match=r"tinit \(6\) and tfinal \(4\) leave none of the 10 optimizer steps"):
        to_peft_config(adalora(tinit=6, tfinal=4), build_model(llama_config()), 10)


def test_every_key_of_ia3_reaches_peft() -> None:
    adapter = ia3(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], modules_to_save=["lm_head"],
        init_ia3_weights=False,
    )  # fmt: skip
    config = to_peft_config(adapter, build_model(llama_config()), 10)
    assert isinstance(config, IA3Config)
    assert (config.target_modules, config.feedforward_modules) == ({"k_proj", "down_proj"}, {"down_proj"})
    assert (config.modules_to_save, config.init_ia3_weights, config.fan_in_fan_out) == (["lm_head"], False, False)


@pytest.mark.proves("adapter.fan_in_fan_out")
def test_transposed_layers_are_recognized_whatever_was_written() -> None:
    model = build_model(gpt2_config())
    assert to_peft_config(ia3(fan_in_fan_out=False), model, 10).fan_in_fan_out is True
    assert to_peft_config(lora(), model, 10).fan_in_fan_out is True


@pytest.mark.parametrize(
    "adapter",
    [
        lora(dropout=0),
        lora(dropout=0, use_rslora=True, target_modules="all-linear", bias_type="all"),
        lora(dropout=0, use_dora=True, target_modules=r".*\.(q_proj|k_proj|c_attn|query_key_value)"),
        lora(dropout=0, init_lora_weights="orthogonal"),
        adalora(dropout=0),
        ia3(),
    ],
    ids=["lora", "all-linear", "dora", "orthogonal", "adalora", "ia3"],
)
@pytest.mark.parametrize("name", ["llama_path", "gpt2_path", "neox_path"])
def test_adapters_start_as_the_base_and_learn(
    adapter: Adapter, name: str, request: pytest.FixtureRequest, token_ids: torch.Tensor
) -> None:
    model = load_base(request.getfixturevalue(name), dtype=torch.float32)
    before = model(token_ids).logits
    adapted = add_adapter(model, adapter, 100)
    if not isinstance(adapter, AdaLoraAdapter):
        torch.testing.assert_close(adapted(input_ids=token_ids).logits, before)
    trace = losses(adapted, token_ids)
    assert trace[-1] < trace[0]
    assert 0 < count_trainable(adapted) < sum(one.numel() for one in adapted.parameters()) / 4


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", ["llama_path", "gpt2_path", "neox_path"])
def test_lora_learns_on_a_quantized_base(
    bits: int, name: str, request: pytest.FixtureRequest, token_ids: torch.Tensor
) -> None:
    quantization = Quantization.model_validate({"bits": bits})
    model = load_base(request.getfixturevalue(name), quantization=quantization, dtype=torch.float32)
    trace = losses(add_adapter(model, lora(), 100), token_ids)
    assert trace[-1] < trace[0] - 0.02


def test_int8_keeps_training_where_the_sixteen_bit_weights_are_kept(llama_path: Path, token_ids: torch.Tensor) -> None:
    quantization = Quantization(bits=8, llm_int8_has_fp16_weight=True)
    model = load_base(llama_path, quantization=quantization, dtype=torch.float32)
    trace = losses(add_adapter(model, lora(), 100), token_ids)
    assert trace[-1] < trace[0] - 0.02


def test_adapters_are_held_in_float32_beside_a_base_in_bfloat16(llama_path: Path) -> None:
    adapted = add_adapter(load_base(llama_path, dtype=torch.bfloat16), lora(), 100)
    assert {one.dtype for one in adapted.parameters() if one.requires_grad} == {torch.float32}
    assert adapted.get_base_model().dtype == torch.bfloat16


def test_dora_on_a_quantized_base_is_refused(llama_path: Path) -> None:
    model = load_base(llama_path, quantization=Quantization(bits=8), dtype=torch.float32)
    with pytest.raises(ConfigInvalid, match=r"adapter\.use_dora: DoRA needs an unquantized base"):
        add_adapter(model, lora(use_dora=True), 100)


def test_an_orthogonal_start_on_a_quantized_base_is_refused(llama_path: Path) -> None:
    model = load_base(llama_path, quantization=Quantization(bits=4), dtype=torch.float32)
    with pytest.raises(ConfigInvalid, match=r"adapter\.init_lora_weights: orthogonal needs an unquantized base"):
        add_adapter(model, lora(init_lora_weights="orthogonal"), 100)


def test_targets_that_can_not_be_adapted_are_named() -> None:
    with pytest.raises(TargetModulesNotFound, match=r"adapter\.target_modules: .*LlamaRMSNorm.*q_proj"):
        add_adapter(build_model(llama_config()), lora(target_modules=["input_layernorm"]), 100)


def test_a_pattern_that_fits_no_adapted_layer_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match=r"adapter: .*rank_pattern keys did not match .*c_fc"):
        add_adapter(build_model(llama_config()), lora(rank_pattern={"c_fc": 2}), 100)


@pytest.mark.proves("trainer.layers_to_freeze_regex")
def test_full_fine_tuning_trains_all_but_what_is_frozen() -> None:
    model = build_model(llama_config())
    everything = sum(one.numel() for one in model.parameters())
    assert mark_trainable(model) == everything
    frozen = sum(one.numel() for name, one in model.named_parameters() if "layers.0." in name)
    assert mark_trainable(model, r"layers\.0\.") == everything - frozen
    assert not model.model.layers[0].mlp.down_proj.weight.requires_grad


@pytest.mark.parametrize(("regex", "found"), [("encoder", "none"), (".", "all")])
def test_a_freezing_regex_that_can_not_be_meant_is_refused(regex: str, found: str) -> None:
    with pytest.raises(ConfigInvalid, match=rf"layers_to_freeze_regex: .* matches {found} of the weights; .*embed_tok"):
        mark_trainable(build_model(llama_config()), regex)
