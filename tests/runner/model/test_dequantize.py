"""Dequantized layers are the quantized ones to the last bit, and quantized ones give right gradients."""

from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from llm_api.config import LoraAdapter, Quantization
from llm_runner.model.adapter import add_adapter
from llm_runner.model.dequantize import dequantize_linears
from llm_runner.model.load import load_base

from tests.support.models import llama_config, save_model

# Rows of 32 outputs and more are what bitsandbytes repacks on CPUs with AVX-512 bfloat16.
WIDE = {"hidden_size": 128, "intermediate_size": 256}


@pytest.fixture(scope="module")
def wide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("wide"), llama_config(**WIDE))


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_every_weight_is_what_the_layer_computed_with(wide_path: Path, kind: str) -> None:
    quantization = Quantization.model_validate({"bits": 4, "bnb_4bit_quant_type": kind})
    model = load_base(wide_path, quantization=quantization, dtype=torch.float32)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    expected = {name: dequantize_4bit(one.weight.data, one.weight.quant_state) for name, one in layers.items()}
    assert dequantize_linears(model, torch.float32) == len(expected) == 14
    for name, weight in expected.items():
        assert torch.equal(model.get_submodule(name).weight, weight)
    assert not any(isinstance(module, Linear4bit) for module in model.modules())


@pytest.mark.parametrize("name", ["llama_path", "gpt2_path", "neox_path"])
def test_the_dequantized_model_computes_the_same(name: str, request: pytest.FixtureRequest) -> None:
    quantized, plain = (
        load_base(request.getfixturevalue(name), quantization=Quantization(bits=4), dtype=torch.float32)
        for _ in range(2)
    )
    dequantize_linears(plain, torch.float32)
    token_ids = torch.arange(2, 40)[None]
    torch.testing.assert_close(plain(token_ids).logits, quantized(token_ids).logits)


def gradients(path: Path, *, dequantize: bool, evaluate_first: bool) -> list[torch.Tensor]:
    model = load_base(path, quantization=Quantization(bits=4), dtype=torch.bfloat16)
    if dequantize:
        dequantize_linears(model, torch.bfloat16)
    adapted = add_adapter(model, LoraAdapter(type="lora", dropout=0), 10)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    token_ids = torch.arange(2, 40)[None]
    if evaluate_first:
        with torch.inference_mode():
            adapted.eval()(input_ids=token_ids)
    adapted.train()(input_ids=token_ids).logits.float().square().mean().backward()
    return [one.grad for name, one in adapted.named_parameters() if "layers.0" in name and one.grad is not None]


def test_a_quantized_model_that_was_evaluated_goes_on_training_rightly(wide_path: Path) -> None:
    wanted = gradients(wide_path, dequantize=True, evaluate_first=True)
    found = gradients(wide_path, dequantize=False, evaluate_first=True)
    assert len(found) == 4
    for one, other in zip(found, wanted, strict=True):
        assert torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.99
