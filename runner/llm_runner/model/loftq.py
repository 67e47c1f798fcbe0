"""LoftQ: an update that starts as the best low-rank copy of what 4 bits lost of each weight.

One round of Li et al. 2023 (arXiv:2310.08659, algorithm 1), for a base that bitsandbytes has quantized already. PEFT's
own ``replace_lora_weights_loftq`` needs a CUDA device, and leaves the update's scale out of account: with alpha = 2 r
the loss is overcorrected by as much as there was. The base stays as it is quantized.
"""

from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from torch import Tensor

from llm_runner.errors import ConfigInvalid
from llm_runner.model.folder import weight_files

_ADAPTER = "default"


@torch.no_grad()
def start_by_loftq(model: PeftModel, base_path: Path) -> None:
    """Sets the matrices of every update, from the weights as they are stored in ``base_path``.

    Raises:
        ConfigInvalid: an adapted layer isn't in 4 bits, or its full weight can't be found.
    """
    base: Any = model.get_base_model()
    files = _files_by_weight(base_path)
    for path, layer in base.named_modules():
        if isinstance(layer, LoraLayer):
            _start_layer(path, layer, files, base.base_model_prefix)


def _start_layer(path: str, layer: Any, files: dict[str, Path], prefix: str) -> None:
    linear = layer.get_base_layer()
    if not isinstance(linear, Linear4bit):
        raise ConfigInvalid(f"adapter.init_lora_weights: loftq, but {path} isn't quantized; take it out of the targets")
    quantized: Any = linear.weight
    known = dequantize_4bit(quantized.data, quantized.quant_state).float()
    lost = _read_weight(path, files, prefix).to(known.device, torch.float32)
    if lost.shape != known.shape or (lost - known).norm() > 0.5 * known.norm():
        raise ConfigInvalid(
            f"adapter.init_lora_weights: loftq, but the stored weight of {path} is not laid out as the quantized one "
            "is, as in GPT-2; leave init_lora_weights out"
        )
    down, up = _best_of_rank(lost - known, layer.r[_ADAPTER], layer.scaling[_ADAPTER])
    layer.lora_A[_ADAPTER].weight.copy_(down)
    layer.lora_B[_ADAPTER].weight.copy_(up)


def _best_of_rank(matrix: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """[rank, in] and [out, rank], the product of which is nearest to ``matrix`` / ``scale`` (Eckart-Young)."""
    left, values, right = torch.linalg.svd(matrix / scale, full_matrices=False)
    if rank > values.numel():
        raise ConfigInvalid(f"adapter.r: {rank}, but a layer has only {values.numel()} directions; write that or less")
    root = values[:rank].sqrt()
    return root[:, None] * right[:rank], left[:, :rank] * root


def _files_by_weight(base_path: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in weight_files(base_path):
        with safe_open(file, framework="pt") as stored:
            found |= dict.fromkeys(stored.keys(), file)
    return found


def _read_weight(path: str, files: dict[str, Path], prefix: str) -> Tensor:
    """Some checkpoints name weights without the prefix that the language model gives its decoder."""
    names = (f"{path}.weight", f"{path.removeprefix(f'{prefix}.')}.weight")
    name = next((one for one in names if one in files), None)
    if name is None:
        raise ConfigInvalid(
            f"adapter.init_lora_weights: loftq, but the base's files hold no {names[0]} of its own; leave it out"
        )
    with safe_open(files[name], framework="pt") as stored:
        tensor: Tensor = stored.get_tensor(name)
    return tensor
