"""Linear layers as the lean decoder calls them: those with the same input fused into one, in the device's best form.

A fused weight replaces those that it is made of, which become views of it: it costs no memory, and the library's own
model goes on working. On a CPU oneDNN brings a 16-bit weight into its own order in every call; a packed weight is that
order kept, for the memory of a second copy (measured: a decoding step of 16 sequences takes two thirds of the time).
Those that it is made of stay as they are then: pages of a file, which the system can take back.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

PACKED_ROWS = 16
"""Tokens of the steps that the packed order is best for; it is no worse for others."""
WIDE_ROWS = 64
"""Tokens from which a weight is worth widening where that is faster (measured on [1536, 576]: 128 tokens take 1.1 ms in
place of 1.5, 512 take 4.1 in place of 5.8, but 32 take 0.64 in place of 0.40)."""


class Projection:
    """One product for several layers of the same input; their outputs stand side by side."""

    def __init__(self, layers: Sequence[nn.Module], *, packs: bool = False) -> None:
        self._layers = [base_layer(layer) for layer in layers]
        self.widths = [int(layer.out_features) for layer in self._layers]
        self._weight: torch.Tensor | None = None
        self._packed: torch.Tensor | None = None
        self._bias: torch.Tensor | None = None
        self._widens = False
        if all(type(layer) is nn.Linear for layer in self._layers):
            self._bias = _fuse_biases(self._layers)
            if packs:
                self._packed = _pack(torch.cat([layer.weight.data for layer in self._layers]))
            else:
                self._weight = _fuse_weights(self._layers)
            weight = self._layers[0].weight
            self._widens = weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and _widens_here()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[tokens, features] to [tokens, sum of ``widths``]."""
        if self._widens and len(x) >= WIDE_ROWS:
            return _join([_wide_linear(x, layer.weight, layer.bias) for layer in self._layers])
        if self._packed is not None:
            return _packed_linear(x, self._packed, self._bias)
        if self._weight is not None:
            return linear(x, self._weight, self._bias)
        return _join([layer(x) for layer in self._layers])


def _join(outputs: list[torch.Tensor]) -> torch.Tensor:
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this build of torch has oneDNN's own order for such weights, and gives the same product by it."""
    if device.type != "cpu" or dtype != torch.bfloat16 or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(32, 32, generator=generator).to(dtype) for _ in range(2))
    try:
        found = _packed_linear(x, _pack(weight), None)
    except (RuntimeError, AttributeError, TypeError):
        return False
    return torch.allclose(found.float(), linear(x, weight).float(), atol=0.1, rtol=0.02)


def is_faster_in_float32(capabilities: Mapping[str, Any]) -> bool:
    """Whether a CPU, as torch describes it, multiplies matrices in float32 faster than in bfloat16: one of x86_64 that
    has no matrix unit for it (AMX), and no vector instruction of twice the speed either. Intel's has the same speed.
    """
    if capabilities.get("architecture") != "x86_64" or capabilities.get("amx_bf16"):
        return False
    return not capabilities.get("avx512_bf16") or str(capabilities.get("cpu_name")).startswith("Intel")


@cache
def _widens_here() -> bool:
    return is_faster_in_float32(torch.cpu.get_capabilities())


def _wide_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The same product, rounded once at its end. The wide weight is not kept, as it takes twice the memory."""
    return linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)


def _pack(weight: torch.Tensor) -> torch.Tensor:
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_ROWS)
    return packed


def _packed_linear(x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return product


def base_layer(layer: Any) -> Any:
    """The layer below an adapter of PEFT's, or the layer itself."""
    get_base_layer = getattr(layer, "get_base_layer", None)
    return layer if get_base_layer is None else get_base_layer()


def _fuse_weights(layers: list[Any]) -> torch.Tensor:
    if len(layers) == 1:
        weight: torch.Tensor = layers[0].weight.data
        return weight
    fused = torch.cat([layer.weight.data for layer in layers])
    for layer, part in zip(layers, fused.split([layer.out_features for layer in layers]), strict=True):
        layer.weight.data = part
    return fused


def _fuse_biases(layers: list[Any]) -> torch.Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    return torch.cat(
        [
            layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias.data.to(layer.weight.dtype)
            for layer in layers
        ]
    )
