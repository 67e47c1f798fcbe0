"""LoRA's forward pass as one autograd node that keeps only its 16-bit input and a dropout mask.

PEFT casts each layer's input to the adapter's float32 and keeps that, its dropped-out copy and the mask, once for each
target module: the largest part of a packed step's memory. Here the input is the tensor that the base layer sees anyway,
and the rest is computed again in backward. The adapter's weights, their names and what is saved stay PEFT's own.
"""

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.nn.functional import linear


class _LowRankUpdate(torch.autograd.Function):
    """scaling * B A dropout(x), accumulated in the type of x; gradients reach A and B in their own type."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        down: torch.Tensor,
        up: torch.Tensor,
        scaling: float,
        kept: torch.Tensor | None,
        keep_scale: float,
    ) -> torch.Tensor:
        dropped = x if kept is None else x * kept * keep_scale
        narrow = linear(dropped, down.to(x.dtype))
        ctx.save_for_backward(x, down, up, kept, narrow)
        ctx.scales = (scaling, keep_scale)
        return linear(narrow, up.to(x.dtype)) * scaling

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, down, up, kept, narrow = ctx.saved_tensors
        scaling, keep_scale = ctx.scales
        # Under autocast the products are of fewer bits than x is.
        grad = grad_outputs[0].flatten(0, -2).to(x.dtype) * scaling
        flat_x, flat_kept = x.flatten(0, -2), None if kept is None else kept.flatten(0, -2)
        dropped = flat_x if flat_kept is None else flat_x * flat_kept * keep_scale
        grad_narrow = grad @ up.to(grad.dtype)
        grad_x = grad_narrow @ down.to(grad.dtype)
        if flat_kept is not None:
            grad_x = grad_x * flat_kept * keep_scale
        return (
            grad_x.view_as(x),
            (grad_narrow.T @ dropped).to(down.dtype),
            (grad.T @ narrow.flatten(0, -2).to(grad.dtype)).to(up.dtype),
            None,
            None,
            None,
        )


def fuse_lora(model: nn.Module) -> int:
    """Switches every plain LoRA layer of ``model`` to the fused pass while it trains; returns how many.

    Variants (DoRA and the like), biases on the adapter, several adapters at once and convolutions stay PEFT's.
    """
    layers = [module for module in model.modules() if isinstance(module, LoraLayer) and _is_plain(module)]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)
    return len(layers)


def unfuse_lora(model: nn.Module) -> None:
    """Gives every layer its own forward pass back."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.__dict__.pop("forward", None)


def _is_plain(layer: Any) -> bool:
    names = layer.active_adapters
    if len(names) != 1 or names[0] not in layer.lora_A or names[0] in layer.lora_variant:
        return False
    down, up = layer.lora_A[names[0]], layer.lora_B[names[0]]
    return type(down) is nn.Linear and type(up) is nn.Linear and down.bias is None and up.bias is None


def _forward(layer: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    if layer.disable_adapters or layer.merged or args or kwargs:
        return type(layer).forward(layer, x, *args, **kwargs)  # type: ignore[no-any-return]
    name = layer.active_adapters[0]
    dropout = layer.lora_dropout[name]
    probability = dropout.p if layer.training and isinstance(dropout, nn.Dropout) else 0.0
    kept = (
        torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(1.0 - probability) if probability else None
    )
    update = _LowRankUpdate.apply(
        x,
        layer.lora_A[name].weight,
        layer.lora_B[name].weight,
        layer.scaling[name],
        kept,
        1.0 / (1.0 - probability) if probability < 1.0 else 0.0,
    )
    base = layer.base_layer(x)
    return base + update.to(base.dtype)  # type: ignore[no-any-return]
