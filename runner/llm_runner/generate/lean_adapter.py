"""Adapters without merging, for batches in which each sequence may have another: read from PEFT's layers once.

LoRA in its variants becomes two narrow products beside the base's (AdaLoRA's singular values go into the first, DoRA's
magnitudes become a factor of the result), and so do VeRA and LoHa; IA3 becomes a factor. What else an adapter may
change - a layer's inputs as a whole, biases, whole modules - is not known here: ``read_adapter`` then says None, and
the library's own forward pass is to be used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.adalora import SVDLinear
from peft.tuners.ia3 import IA3Layer
from peft.tuners.loha import LoHaLayer
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.tuners.vera import VeraLayer
from torch import nn
from torch.nn.functional import linear


@dataclass(frozen=True)
class LowRank:
    """output + up (down x), all in the model's type."""

    down: torch.Tensor
    """[rank, features in]"""
    up: torch.Tensor
    """[features out, rank], scaled already."""

    def __call__(self, x: torch.Tensor, output: torch.Tensor) -> None:
        output += linear(linear(x, self.down), self.up)


@dataclass(frozen=True)
class OutputScale:
    """output * factor, where the layer has no bias."""

    factor: torch.Tensor

    def __call__(self, _x: torch.Tensor, output: torch.Tensor) -> None:
        output *= self.factor


@dataclass(frozen=True)
class InputScale:
    """What stands before the product rather than after it."""

    factor: torch.Tensor


Change = LowRank | OutputScale | InputScale
LeanAdapter = Mapping[str, Sequence[Change]]
"""By the path of the layer in the base model, as in ``model.layers.0.self_attn.q_proj``."""


def read_adapter(model: PeftModel, name: str) -> LeanAdapter | None:
    """The changes of one loaded adapter, or None where it changes what is not known here."""
    peft_config: Any = model.peft_config[name]
    if getattr(peft_config, "bias", "none") != "none" or getattr(peft_config, "modules_to_save", None):
        return None
    base: Any = model.get_base_model()
    changes: dict[str, Sequence[Change]] = {}
    for path, layer in base.named_modules():
        if isinstance(layer, BaseTunerLayer):
            read = _read_layer(layer, name)
            if read is None:
                return None
            changes[path] = read
    return changes


def _read_layer(layer: Any, name: str) -> Sequence[Change] | None:
    if isinstance(layer, IA3Layer):
        return _read_ia3(layer, name) if name in layer.ia3_l else []
    if isinstance(layer, VeraLayer):
        return [_read_vera(layer, name)] if name in layer.vera_lambda_d else []
    if isinstance(layer, LoHaLayer):
        return [_read_loha(layer, name)] if name in layer.hada_w1_a else []
    if not isinstance(layer, LoraLayer) or name in layer.lora_embedding_A or layer.lora_bias.get(name, False):
        return None
    if name not in layer.lora_A:
        return []
    if isinstance(layer, SVDLinear):
        return _read_adalora(layer, name)
    return _read_lora(layer, name)


def _read_lora(layer: Any, name: str) -> Sequence[Change] | None:
    down, up = layer.lora_A[name], layer.lora_B[name]
    if not isinstance(down, nn.Linear) or not isinstance(up, nn.Linear):
        return None
    dtype = compute_dtype(layer)
    update = LowRank(down.weight.data.to(dtype), (up.weight.data * layer.scaling[name]).to(dtype))
    if name not in layer.lora_variant:
        return [update]
    base = layer.get_base_layer()
    if name not in layer.lora_magnitude_vector or base.bias is not None or not base.weight.is_floating_point():
        return None
    return [update, OutputScale(_dora_factor(layer, name).to(dtype))]


def _dora_factor(layer: Any, name: str) -> torch.Tensor:
    """Liu et al. 2024 (arXiv:2402.09353), equation 5: magnitude over the norm of the changed weight's rows."""
    change = layer.lora_B[name].weight.data.float() @ layer.lora_A[name].weight.data.float()
    weight = layer.get_base_layer().weight.data.float() + layer.scaling[name] * change
    magnitude: torch.Tensor = layer.lora_magnitude_vector[name].weight.data
    factor: torch.Tensor = magnitude.float() / weight.norm(dim=1)
    return factor


def _read_adalora(layer: Any, name: str) -> Sequence[Change]:
    """Zhang et al. 2023 (arXiv:2303.10512): P Lambda Q, in PEFT divided by the rank that is left."""
    dtype = compute_dtype(layer)
    down = layer.lora_A[name].data * layer.lora_E[name].data
    factor = layer.scaling[name] / (layer.ranknum[name].item() + 1e-5)
    return [LowRank(down.to(dtype), (layer.lora_B[name].data * factor).to(dtype))]


def _read_vera(layer: Any, name: str) -> LowRank:
    """Kopiczko et al. 2024 (arXiv:2310.11454), equation 2; the shared matrices are as wide as the widest layers."""
    dtype = compute_dtype(layer)
    down = layer.vera_lambda_d[name].data[:, None] * layer.vera_A[name][:, : layer.in_features]
    up = layer.vera_lambda_b[name].data[:, None] * layer.vera_B[name][: layer.out_features]
    return LowRank(down.to(dtype), up.to(dtype))


def _read_loha(layer: Any, name: str) -> LowRank:
    """Hadamard's product of two updates of rank r is one of rank r * r: the products of each pair of directions."""
    dtype = compute_dtype(layer)
    first, second = (layer.hada_w1_a[name].data, layer.hada_w2_a[name].data)
    up = (first[:, :, None] * second[:, None, :]).flatten(1) * layer.scaling[name]
    down = (layer.hada_w1_b[name].data[:, None] * layer.hada_w2_b[name].data[None]).flatten(0, 1)
    return LowRank(down.to(dtype), up.to(dtype))


def _read_ia3(layer: Any, name: str) -> Sequence[Change] | None:
    factor = layer.ia3_l[name].data.flatten().to(compute_dtype(layer))
    if layer.is_feedforward:
        return [InputScale(factor)]
    return [OutputScale(factor)]


def compute_dtype(layer: Any) -> torch.dtype:
    """The type that a layer computes in; a 4-bit weight's own type says nothing of it."""
    base = layer.get_base_layer()
    weight: torch.Tensor = base.weight
    if weight.dtype.is_floating_point:
        return weight.dtype
    own: torch.dtype | None = getattr(base, "compute_dtype", None)
    return torch.get_default_dtype() if own is None else own
