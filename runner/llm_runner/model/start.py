"""LoRA updates that start as a part of the base's own weights (PiSSA and OLoRA), and how they leave the base alone.

While such an update is trained, the base lacks what the update started as. What is stored is an ordinary LoRA of twice
the rank for the base as it was: the update that was trained, less the one that it started as. The matrices of the start
stay with their layers, as buffers that no program saves by itself. How a start is worked out is PEFT's.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils import transpose
from safetensors.torch import load_file, save_file
from torch import Tensor

from llm_runner.errors import ConfigInvalid

WEIGHTS_NAME = "adapter_model.safetensors"
_ADAPTER = "default"
_DOWN, _UP = "start_down", "start_up"


def keep_start(model: PeftModel) -> None:
    """Notes what each layer's update is now.

    Raises:
        ConfigInvalid: the rank is larger than a layer.
    """
    for name, layer in _lora_layers(model):
        down, up = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
        if down.shape[0] != layer.r[_ADAPTER]:
            raise ConfigInvalid(
                f"adapter.r: {layer.r[_ADAPTER]}, but {name} has only {down.shape[0]} directions to start with; "
                "write that or less, or leave init_lora_weights out"
            )
        layer.register_buffer(_DOWN, down.detach().clone(), persistent=False)
        layer.register_buffer(_UP, up.detach().clone(), persistent=False)


def has_start(model: PeftModel) -> bool:
    """Whether the base lacks what its update started as."""
    return any(hasattr(layer, _DOWN) for _, layer in _lora_layers(model))


def start_of(model: PeftModel) -> dict[str, Tensor]:
    """The matrices of the start, by layer."""
    return {
        f"{name}.{part}": getattr(layer, part).detach().cpu()
        for name, layer in _lora_layers(model)
        for part in (_DOWN, _UP)
    }


def restore_start(model: PeftModel, start: dict[str, Tensor]) -> None:
    """Puts the base and the start as they were where ``start`` was worked out, maybe on a machine that rounds or
    turns it otherwise."""
    for name, layer in _lora_layers(model):
        now = [getattr(layer, part) for part in (_DOWN, _UP)]
        then = [start[f"{name}.{part}"].to(now[0].device) for part in (_DOWN, _UP)]
        if all(torch.equal(one, other) for one, other in zip(now, then, strict=True)):
            continue
        change = (now[1] @ now[0] - then[1] @ then[0]) * layer.scaling[_ADAPTER]
        weight = layer.get_base_layer().weight
        weight.data = (weight.data.float() + transpose(change, layer.fan_in_fan_out)).to(weight.dtype)
        for buffer, value in zip(now, then, strict=True):
            buffer.copy_(value)


def store_as_plain_lora(model: PeftModel, folder: Path) -> None:
    """Turns the adapter that was saved in ``folder`` into one for the base as it was before the start was taken out.

    The rank is doubled, and alpha with it, so that the scale stays: [B, -B0] [A; A0] = B A - B0 A0.
    """
    weights = load_file(folder / WEIGHTS_NAME)
    for name, layer in _lora_layers(model):
        down, up = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
        weights[down] = torch.cat([weights[down], getattr(layer, _DOWN).to(weights[down])]).contiguous()
        weights[up] = torch.cat([weights[up], -getattr(layer, _UP).to(weights[up])], dim=1).contiguous()
    save_file(weights, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    _double(model.peft_config[_ADAPTER]).save_pretrained(str(folder))


def _double(config: Any) -> LoraConfig:
    """rsLoRA divides by the root of the rank, so that alpha grows by the root of two only."""
    growth = 2**0.5 if config.use_rslora else 2
    doubled = LoraConfig.from_peft_type(**{**config.to_dict(), "init_lora_weights": True})
    doubled.r = 2 * config.r
    doubled.lora_alpha = growth * config.lora_alpha
    doubled.rank_pattern = {name: 2 * rank for name, rank in config.rank_pattern.items()}
    doubled.alpha_pattern = {name: growth * alpha for name, alpha in config.alpha_pattern.items()}
    doubled.inference_mode = True
    return doubled  # type: ignore[no-any-return]


def _lora_layers(model: PeftModel) -> Iterator[tuple[str, Any]]:
    """By the paths under which PEFT stores them."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))
