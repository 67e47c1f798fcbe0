"""What 4-bit layers need before they are trained on: exact gradients, and speed where memory allows it.

A 4-bit layer dequantizes its weight in every call. Doing that once gives the same numbers several times faster, in
the memory of an unquantized model.
"""

from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from torch import nn
from transformers import PreTrainedModel


def keep_differentiable(model: PreTrainedModel) -> None:
    """Stops 4-bit layers on a CPU from repacking their weights the first time that they run without gradients.

    bitsandbytes 0.50 does so on CPUs with AVX-512 bfloat16, for speed. It rounds the scales, and no gradient passes
    such a layer from then on: a model that was evaluated once would go on training wrongly, without an error.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def dequantize_linears(model: PreTrainedModel, dtype: torch.dtype) -> int:
    """Replaces every 4-bit layer in place, before an adapter is added. Returns how many there were.

    The model still counts as quantized where that matters (``model.is_quantized``): its weights are the rounded ones.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, Linear4bit)]
    for name in names:
        # Nothing else holds the 4-bit layer, so that its memory is free for the next one.
        model.set_submodule(name, _to_linear(model.get_submodule(name), dtype))
    return len(names)


def _to_linear(layer: Any, dtype: torch.dtype) -> nn.Linear:
    """A plain layer with the weight, [features out, features in], that the 4-bit one stands for."""
    weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(dtype)
    with torch.device("meta"):
        plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    plain.weight = nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.data.to(dtype), requires_grad=False)
    return plain.train(layer.training)
