"""What each key of the quantization section does to the loaded weights and to what layers compute."""

from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from llm_api.config import Quantization
from llm_runner.model.load import load_base
from transformers import PreTrainedModel

from tests.support.models import llama_config, save_model

LAYER = "model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def wide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {"hidden_size": 128, "intermediate_size": 256}
    return save_model(tmp_path_factory.mktemp("wide"), llama_config(**sizes))


def load(path: Path, dtype: torch.dtype = torch.float32, **keys: Any) -> PreTrainedModel:
    return load_base(path, quantization=Quantization.model_validate(keys), dtype=dtype)


def layer_of(path: Path, dtype: torch.dtype = torch.float32, **keys: Any) -> Any:
    return load(path, dtype, **keys).get_submodule(LAYER)


def exact_weight(path: Path) -> torch.Tensor:
    weight: Any = load_base(path, dtype=torch.float32).get_submodule(LAYER).weight
    return weight.data  # type: ignore[no-any-return]


@pytest.mark.proves("quantization.bnb_4bit_quant_type")
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_weights_are_those_of_the_written_number_type(kind: str, wide_path: Path) -> None:
    layer = layer_of(wide_path, bits=4, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=False)
    found = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    wanted = {
        name: dequantize_4bit(*quantize_4bit(exact_weight(wide_path), quant_type=name)) for name in ("nf4", "fp4")
    }
    torch.testing.assert_close(found, wanted.pop(kind))
    (other,) = wanted.values()
    assert not torch.allclose(found, other, atol=1e-3)


def scale_bytes(model: PreTrainedModel) -> int:
    """Of the scales of all blocks, and of the scales of those."""
    states = [module.weight.quant_state for module in model.modules() if isinstance(module, Linear4bit)]
    own = sum(state.absmax.nbytes for state in states)
    return own + sum(state.state2.absmax.nbytes for state in states if state.nested)


@pytest.mark.proves("quantization.bnb_4bit_use_double_quant")
def test_double_quantization_saves_most_of_the_scales(wide_path: Path) -> None:
    double, single = (scale_bytes(load(wide_path, bnb_4bit_use_double_quant=double)) for double in (True, False))
    assert double < 0.35 * single


@pytest.mark.proves("quantization.bits")
def test_bits_decide_what_a_weight_takes(wide_path: Path) -> None:
    exact = exact_weight(wide_path)
    for bits in (4, 8):
        assert layer_of(wide_path, bits=bits).weight.data.nbytes == exact.numel() * bits / 8


@pytest.mark.proves("quantization.llm_int8_threshold")
def test_activations_above_the_threshold_are_computed_in_16_bits(wide_path: Path) -> None:
    """One column of large values spoils the scale of its row in 8 bits, unless it is computed apart."""
    x = torch.randn(16, 128, generator=torch.Generator().manual_seed(0)) / 10
    x[:, 7] = 40.0
    exact = x @ exact_weight(wide_path).T
    errors = []
    for threshold in (0.0, 6.0, 100.0):
        layer = layer_of(wide_path, torch.float16, bits=8, llm_int8_threshold=threshold)
        errors.append(float((layer(x.half()).float() - exact).abs().mean()))
    assert errors[1] < min(errors[0], errors[2]) / 2


@pytest.mark.proves("quantization.llm_int8_has_fp16_weight")
def test_sixteen_bit_weights_are_kept_where_asked(wide_path: Path) -> None:
    for keeps, dtype in ((True, torch.float16), (False, torch.int8)):
        layer = layer_of(wide_path, torch.float16, bits=8, llm_int8_has_fp16_weight=keeps)
        assert isinstance(layer, Linear8bitLt)
        assert layer.weight.dtype == dtype


@pytest.mark.proves("quantization.bnb_4bit_compute_dtype")
def test_layers_compute_in_the_type_that_they_are_loaded_for(wide_path: Path) -> None:
    x = torch.randn(16, 128, generator=torch.Generator().manual_seed(0))
    layers = {dtype: layer_of(wide_path, dtype, bits=4) for dtype in (torch.float32, torch.bfloat16)}
    weight = dequantize_4bit(layers[torch.float32].weight.data, layers[torch.float32].weight.quant_state)
    errors = {dtype: float((layer(x) - x @ weight.T).abs().max()) for dtype, layer in layers.items()}
    assert errors[torch.float32] < 1e-5 < 1e-4 < errors[torch.bfloat16]
