"""Updates that start in the base, or in what 4 bits lost of it: how they start, and what they leave behind."""

from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from llm_api.config import LoraAdapter, Quantization
from llm_runner.errors import ConfigInvalid
from llm_runner.model.adapter import add_adapter
from llm_runner.model.load import load_base, load_tokenizer
from llm_runner.model.save import BaseName, save_adapter, save_merged
from llm_runner.model.start import has_start, restore_start, start_of
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.support.models import llama_config, save_model

# PEFT asks transformers by a deprecated name whether gradients are checkpointed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

SHIFTED = ("pissa", "pissa_niter_16", "olora")
IN_4_BITS = Quantization(bits=4)


def adapted(path: Path, start: str, *, quantization: Quantization | None = None, **keys: Any) -> PeftModel:
    adapter = LoraAdapter.model_validate({"type": "lora", "r": 4, "dropout": 0, "init_lora_weights": start, **keys})
    base = load_base(path, dtype=torch.float32, quantization=quantization)
    torch.manual_seed(3)
    return add_adapter(base, adapter, 10)


def plain(path: Path, start: str) -> PeftModel:
    """PEFT alone, with the same numbers written."""
    base: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    torch.manual_seed(3)
    config: Any = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    config.init_lora_weights = start
    adapted_model: PeftModel = get_peft_model(base, config)
    return adapted_model


def layers_of(model: PeftModel) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def update_of(layer: Any) -> Tensor:
    change: Tensor = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * layer.scaling["default"]
    return change.detach()


def shaken(model: PeftModel) -> PeftModel:
    """Every trained number is moved, as training does."""
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.mark.proves("adapter.init_lora_weights")
@pytest.mark.parametrize("start", SHIFTED)
def test_the_start_is_pefts_and_the_model_is_the_base(start: str, llama_path: Path, token_ids: Tensor) -> None:
    ours, theirs = adapted(llama_path, start), plain(llama_path, start)
    for name, layer in layers_of(ours).items():
        other = layers_of(theirs)[name]
        torch.testing.assert_close(layer.get_base_layer().weight, other.get_base_layer().weight)
        torch.testing.assert_close(update_of(layer), update_of(other))
        assert update_of(layer).norm() > 0.1 * other.get_base_layer().weight.norm()
    base = load_base(llama_path, dtype=torch.float32)
    torch.testing.assert_close(ours(input_ids=token_ids).logits, base(token_ids).logits, rtol=1e-4, atol=1e-4)


def test_pissa_starts_with_the_largest_directions(llama_path: Path) -> None:
    """Meng et al. 2024 (arXiv:2404.02948), equations 2 to 4."""
    base = load_base(llama_path, dtype=torch.float32)
    for name, layer in layers_of(adapted(llama_path, "pissa")).items():
        plain_layer: Any = base.get_submodule(name.removeprefix("base_model.model."))
        weight = plain_layer.weight.detach()
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        torch.testing.assert_close(update_of(layer), left[:, :4] * values[:4] @ right[:4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "keys", [{}, {"use_rslora": True, "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 3}}]
)
@pytest.mark.parametrize("start", SHIFTED)
def test_what_is_stored_is_a_plain_lora_for_the_base_as_it_was(
    start: str, keys: dict[str, Any], llama_path: Path, tmp_path: Path, token_ids: Tensor
) -> None:
    model, tokenizer = shaken(adapted(llama_path, start, **keys)), load_tokenizer(llama_path)
    save_adapter(model, tmp_path / "adapter", base=BaseName("acme/base"), tokenizer=tokenizer)
    wanted = model(input_ids=token_ids).logits
    base: Any = AutoModelForCausalLM.from_pretrained(llama_path, dtype=torch.float32)
    assert not torch.allclose(base(token_ids).logits, wanted, atol=1e-2)
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(loaded(input_ids=token_ids).logits, wanted, rtol=1e-4, atol=1e-4)
    config: Any = PeftConfig.from_pretrained(str(tmp_path / "adapter"))
    assert (config.r, config.init_lora_weights) == (8, True)
    merged = save_merged(llama_path, tmp_path / "adapter", tmp_path / "m", tokenizer=tokenizer, dtype=torch.float32)
    torch.testing.assert_close(merged(token_ids).logits, wanted, rtol=1e-4, atol=1e-4)


def test_transposed_layers_start_rightly_with_pissa_and_are_refused_with_olora(
    gpt2_path: Path, tmp_path: Path, token_ids: Tensor
) -> None:
    model = adapted(gpt2_path, "pissa", target_modules=["c_proj"])
    untouched = load_base(gpt2_path, dtype=torch.float32)(token_ids).logits
    torch.testing.assert_close(model(input_ids=token_ids).logits, untouched, rtol=1e-4, atol=1e-4)
    save_adapter(shaken(model), tmp_path, base=BaseName("acme/base"), tokenizer=load_tokenizer(gpt2_path))
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(gpt2_path), str(tmp_path)).eval()
    torch.testing.assert_close(
        loaded(input_ids=token_ids).logits, model(input_ids=token_ids).logits, rtol=1e-4, atol=1e-4
    )
    with pytest.raises(
        ConfigInvalid, match=r"adapter\.init_lora_weights: olora can't start .* transposed.*write pissa"
    ):
        adapted(gpt2_path, "olora", target_modules=["c_proj"])


def test_a_start_that_was_worked_out_elsewhere_takes_the_place_of_this_machines(
    llama_path: Path, token_ids: Tensor
) -> None:
    model, other = adapted(llama_path, "pissa"), adapted(llama_path, "olora")
    assert has_start(model)
    restore_start(model, start_of(other))
    for name, layer in layers_of(model).items():
        wanted = layers_of(other)[name]
        torch.testing.assert_close(layer.get_base_layer().weight, wanted.get_base_layer().weight, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.start_up, wanted.start_up)


@pytest.mark.parametrize("start", SHIFTED)
def test_a_rank_that_no_layer_has_is_refused(start: str, llama_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"adapter\.r: 24, but .*v_proj has only 16 directions"):
        adapted(llama_path, start, r=24)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("start", SHIFTED)
def test_a_start_in_the_base_is_refused_where_the_base_is_quantized(start: str, bits: Any, llama_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=rf"adapter\.init_lora_weights: {start} needs an unquantized base"):
        adapted(llama_path, start, quantization=Quantization(bits=bits))


@pytest.mark.parametrize("alpha", [4, 8, 32])
def test_loftq_starts_at_what_four_bits_lost_whatever_the_scale(alpha: int, llama_path: Path) -> None:
    """Of all updates of that rank it leaves the least error: the singular values that are left out."""
    base = load_base(llama_path, dtype=torch.float32)
    for name, layer in layers_of(adapted(llama_path, "loftq", quantization=IN_4_BITS, alpha=alpha)).items():
        plain_layer: Any = base.get_submodule(name.removeprefix("base_model.model."))
        weight = plain_layer.weight.detach()
        quantized = layer.get_base_layer().weight
        known = dequantize_4bit(quantized.data, quantized.quant_state).float()
        left_over = float((weight - known - update_of(layer)).norm())
        values = torch.linalg.svdvals(weight - known)
        assert left_over == pytest.approx(float(values[4:].norm()), rel=1e-3)
        assert left_over < 0.95 * float((weight - known).norm())


def test_loftq_brings_a_quantized_model_nearer_to_the_full_one(tmp_path: Path, token_ids: Tensor) -> None:
    path = save_model(tmp_path, llama_config(hidden_size=64, intermediate_size=128))
    full = load_base(path, dtype=torch.float32)(token_ids).logits
    errors = []
    for start in ("loftq", "default"):
        model = adapted(path, start, quantization=IN_4_BITS, r=24, target_modules="all-linear").eval()
        errors.append((model(input_ids=token_ids).logits - full).norm().item())
    assert errors[0] < 0.8 * errors[1]


def test_loftq_is_refused_where_the_stored_weights_are_laid_out_otherwise(gpt2_path: Path, llama_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"adapter\.init_lora_weights: loftq, but .*c_attn.* not laid out"):
        adapted(gpt2_path, "loftq", quantization=IN_4_BITS)
    with pytest.raises(ConfigInvalid, match=r"adapter\.init_lora_weights: loftq, but .*q_proj isn't quantized"):
        adapted(llama_path, "loftq")


def test_a_loftq_adapter_loads_onto_the_quantized_base_in_plain_peft(
    llama_path: Path, tmp_path: Path, token_ids: Tensor
) -> None:
    model = shaken(adapted(llama_path, "loftq", quantization=IN_4_BITS))
    save_adapter(model, tmp_path, base=BaseName("acme/base"), tokenizer=load_tokenizer(llama_path))
    base = load_base(llama_path, dtype=torch.float32, quantization=IN_4_BITS)
    loaded = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    torch.testing.assert_close(loaded(input_ids=token_ids).logits, model(input_ids=token_ids).logits)
