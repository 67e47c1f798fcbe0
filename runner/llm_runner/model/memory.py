"""How much memory a fine-tune will need, before anything of it is loaded.

The parts are counted on a model without weights (torch's meta device) and from its config, for the flattened
training loop: no padding, logits of a chunk of targets at a time. It means to be right within 15%;
benchmarks/memory.py compares it with measured peaks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from llm_api.config import Quantization
from llm_api.config.adapter import AnyAdapter as Adapter
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from llm_runner.errors import OutOfMemory
from llm_runner.model.adapter import mark_trainable
from llm_runner.model.adapter_memory import AdapterNeed, need_of
from llm_runner.model.targets import layers_of, linear_modules, width_of

GIB = 2**30

BYTES_4_BIT, BYTES_4_BIT_DOUBLE = 0.5 + 4 / 64, 0.5 + 1 / 64 + 4 / (64 * 256)
"""Of one weight with its share of the scales: one scale for 64 weights, with double quantization of 8 bits."""

STATES = {"sgd": 1, "adagrad": 1, "rmsprop": 2, "lion": 1, "lars": 1, "adafactor": 0, "lbfgs": 200, "muon": 1}
ADAM_STATES = 2
"""Numbers that an optimizer keeps for each that it trains; Adam and its kin keep two."""

GRADIENT_BYTES = 4
"""Of a number that is trained, in float32."""

CHUNK_TARGETS = 128
"""Targets whose logits exist at a time in the loss."""

OVERHEAD_BYTES = {"cpu": int(0.9 * GIB), "cuda": int(0.8 * GIB)}
"""The libraries in a process; CUDA's context and work spaces."""

GATHERED_LAYERS = 2
"""Layers that are whole at a time where they are shared out: one is computed with, the next is being fetched."""

ALLOCATOR_SLACK = {"cpu": 1.45, "cuda": 1.15}
"""Peak over what backward keeps: gradients on their way, and memory that the allocator holds in pieces."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device, by what they are for."""

    weights_bytes: int
    trained_bytes: int
    """What full fine-tuning or an adapter adds: its weights, gradients and optimizer states."""
    activations_bytes: int
    """What the forward pass keeps for backward."""
    loss_bytes: int
    overhead_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.trained_bytes + self.activations_bytes + self.loss_bytes + self.overhead_bytes


@dataclass(frozen=True)
class MemoryPlan:
    """What the need depends on."""

    batch_tokens: int
    """Tokens of one forward pass."""
    dtype: torch.dtype
    quantization: Quantization | None = None
    adapter: Adapter | None = None
    """None: full fine-tuning."""
    optimizer: str = "adamw"
    gradient_checkpointing: bool = False
    dequantized: bool = False
    """Whether 4-bit layers are dequantized once."""
    total_steps: int = 2**31
    """Optimizer steps of the run; AdaLoRA refuses too few."""
    shared_by: int = 1
    """Processes that share out the decoder's layers, with what is trained in them; 1: each has all of them."""


def estimate_memory(config: PretrainedConfig, plan: MemoryPlan, device: torch.device | str = "cpu") -> MemoryEstimate:
    """The need of a fine-tune of a model with this config."""
    kind = torch.device(device).type
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=plan.dtype)
        weights_bytes = _weights_bytes(model, plan)
        need = _adapter_need(model, plan)
    return MemoryEstimate(
        weights_bytes=weights_bytes,
        trained_bytes=_trained_bytes(_trained_here(model, need, plan), plan) + need.held,
        activations_bytes=int(_activations_bytes(config, plan, need) * ALLOCATOR_SLACK.get(kind, 1.45)),
        loss_bytes=CHUNK_TARGETS * config.get_text_config().vocab_size * (4 + 4 + plan.dtype.itemsize),
        overhead_bytes=OVERHEAD_BYTES.get(kind, OVERHEAD_BYTES["cpu"]),
    )


def serving_bytes(
    config: PretrainedConfig,
    dtype: torch.dtype,
    quantization: Quantization | None,
    step_tokens: int,
    device: torch.device,
) -> dict[str, int]:
    """What answering takes beside the key-value cache, by what it is for. A CPU keeps its weights in two orders."""
    plan = MemoryPlan(step_tokens, dtype, quantization)
    with torch.device("meta"):
        weights = _weights_bytes(AutoModelForCausalLM.from_config(config, dtype=dtype), plan)
    text: Any = config.get_text_config()
    passing = step_tokens * (4 * int(text.hidden_size) + 3 * _mlp_width(text)) * max(4, dtype.itemsize)
    return {
        "weights": 2 * weights if device.type == "cpu" and dtype == torch.bfloat16 else weights,
        "activations": passing,
        "libraries": OVERHEAD_BYTES.get(device.type, OVERHEAD_BYTES["cpu"]),
    }


def cache_token_bytes(config: PretrainedConfig, dtype: torch.dtype) -> int:
    """What the key-value cache keeps of one token over all layers."""
    text: Any = config.get_text_config()
    heads = _largest(text.num_attention_heads)
    size = getattr(text, "head_dim", None) or int(text.hidden_size) // heads
    shared = _largest(getattr(text, "num_key_value_heads", None) or heads)
    return 2 * int(text.num_hidden_layers) * shared * size * dtype.itemsize


def available_memory(device: torch.device | str = "cpu", *, processes: int = 1) -> int:
    """Free bytes of the device; of the machine, or of the container's limit if that is nearer.

    A CPU's memory is for as many ``processes`` as run on it, each of which gets the same part.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    # What this process holds already is in the estimate too.
    free = psutil.virtual_memory().available // processes + psutil.Process().memory_info().rss
    limit = container_limit(Path("/sys/fs/cgroup"))
    return free if limit is None else min(free, limit // processes)


def container_limit(cgroup_path: Path) -> int | None:
    """Bytes that the container may use, by control groups of version 2 or 1; None where there is no limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        path = cgroup_path / name
        text = path.read_text(encoding="ascii").strip() if path.is_file() else "max"
        # Version 1 says "no limit" by a number past any machine.
        if text.isdecimal() and int(text) < 2**60:
            return int(text)
    return None


def check_memory(estimate: MemoryEstimate, available_bytes: int, plan: MemoryPlan) -> None:
    """Raises OutOfMemory, with what to change, where the estimate exceeds what there is."""
    if estimate.total_bytes > available_bytes:
        raise OutOfMemory(
            f"this fine-tune needs about {estimate.total_bytes / GIB:.1f} GiB{_where(plan)} ({describe(estimate)}), "
            f"and there are {available_bytes / GIB:.1f} GiB. Try {', '.join(_advice(plan))}"
        )


def describe(estimate: MemoryEstimate) -> str:
    """The parts, largest first."""
    parts = {
        "weights": estimate.weights_bytes,
        "what is trained with its optimizer": estimate.trained_bytes,
        "activations": estimate.activations_bytes + estimate.loss_bytes,
        "the libraries": estimate.overhead_bytes,
    }
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {size_bytes / GIB:.1f}" for name, size_bytes in ordered)


def _where(plan: MemoryPlan) -> str:
    return "" if plan.shared_by == 1 else f" in each of {plan.shared_by} processes, layers shared out"


def _advice(plan: MemoryPlan) -> list[str]:
    advice = []
    if plan.adapter is None:
        advice.append("adapter: {type: lora} in place of full fine-tuning")
    if plan.quantization is None or plan.quantization.bits == 8:
        advice.append("quantization: {bits: 4} with adapter: {type: lora}")
    if not plan.gradient_checkpointing:
        advice.append("trainer.enable_gradient_checkpointing: true")
    return [*advice, "a smaller preprocessing.global_max_sequence_length or trainer.batch_size", "a smaller base_model"]


def _weights_bytes(model: PreTrainedModel, plan: MemoryPlan) -> int:
    """Of the base model. Only linear layers are quantized, and not the output head, which is never shared out."""
    total = sum(parameter.numel() for parameter in model.parameters())
    linear = sum(math.prod(width_of(module)) for module in linear_modules(model).values())
    whole = int((total - linear) * plan.dtype.itemsize + linear * _bytes_of_linear_weight(plan))
    if plan.shared_by == 1:
        return whole
    layers = layers_of(model.get_decoder())
    of_layers = (_numbers_in(layers) - linear) * plan.dtype.itemsize + linear * _bytes_of_linear_weight(plan)
    return whole - int(of_layers * (1 - 1 / plan.shared_by - min(1.0, GATHERED_LAYERS / max(1, len(layers)))))


def _numbers_in(layers: Sequence[torch.nn.Module]) -> int:
    return sum(parameter.numel() for layer in layers for parameter in layer.parameters())


def _trained_here(model: PreTrainedModel, need: AdapterNeed, plan: MemoryPlan) -> int:
    """Numbers that one process trains: an adapter's are in the layers, and shared out as these are."""
    if plan.shared_by == 1:
        return need.trained
    in_layers = (
        need.trained if plan.adapter is not None else min(need.trained, _numbers_in(layers_of(model.get_decoder())))
    )
    return need.trained - in_layers + math.ceil(in_layers / plan.shared_by)


def _bytes_of_linear_weight(plan: MemoryPlan) -> float:
    if plan.quantization is None or (plan.dequantized and plan.quantization.bits == 4):
        return plan.dtype.itemsize
    if plan.quantization.bits == 8:
        return 3 if plan.quantization.llm_int8_has_fp16_weight else 1
    return BYTES_4_BIT_DOUBLE if plan.quantization.bnb_4bit_use_double_quant else BYTES_4_BIT


def _adapter_need(model: PreTrainedModel, plan: MemoryPlan) -> AdapterNeed:
    if plan.adapter is None:
        return AdapterNeed(mark_trainable(model))
    return need_of(model, plan.adapter, plan.dtype, plan.total_steps)


def _trained_bytes(trained: int, plan: MemoryPlan) -> int:
    """A float32 gradient and the states of each trained number; and the number itself, where it isn't one of the base
    in float32: those of an adapter, and the float32 copies of 16-bit weights.
    """
    copy = 4 if plan.adapter is not None or plan.dtype.itemsize < 4 else 0
    return trained * (copy + GRADIENT_BYTES + state_bytes_of(plan.optimizer))


def state_bytes_of(optimizer: str) -> int:
    """What an optimizer keeps for each number that it trains."""
    name = optimizer.removeprefix("paged_").removesuffix("_8bit")
    return STATES.get(name, ADAM_STATES) * (1 if optimizer.endswith("_8bit") else 4)


def _activations_bytes(config: PretrainedConfig, plan: MemoryPlan, need: AdapterNeed) -> int:
    """Kept for backward: for each token and layer, or with checkpointing one layer at a time and the layers' inputs."""
    text: Any = config.get_text_config()
    size, hidden, layers = plan.dtype.itemsize, int(text.hidden_size), int(text.num_hidden_layers)
    layer = _layer_bytes(text, plan)
    kept = layer + layers * size * hidden if plan.gradient_checkpointing else layers * layer
    beside = need.kept + plan.batch_tokens * need.kept_by_token
    return plan.batch_tokens * kept + (beside // layers if plan.gradient_checkpointing else beside)


def _layer_bytes(text: Any, plan: MemoryPlan) -> int:
    """One token's in one layer: norms keep a float32 copy, attention its inputs and output, the MLP three tensors."""
    size, hidden, wide = plan.dtype.itemsize, int(text.hidden_size), _mlp_width(text)
    heads = _largest(getattr(text, "num_attention_heads", 1))
    keys = hidden * _largest(getattr(text, "num_key_value_heads", heads)) // heads
    kept = 2 * 4 * hidden + size * (2 * hidden + 2 * keys + 3 * wide)
    if plan.adapter is None:
        # Trained layers keep their inputs too, and trained norms what they scale.
        return kept + size * (2 * hidden + wide) + 2 * (4 + size) * hidden
    return kept + size * hidden + 2 * hidden


def _mlp_width(text: Any) -> int:
    """Width that one token's feed-forward works in; a mixture of experts uses several at once."""
    own = getattr(text, "intermediate_size", None)
    wide = 4 * int(text.hidden_size) if own is None else _largest(own)
    used = getattr(text, "num_experts_per_tok", None)
    if used is None:
        return wide
    return _largest(used) * _largest(getattr(text, "moe_intermediate_size", wide))


def _largest(value: int | list[int]) -> int:
    """Of a number that some architectures give for each layer."""
    return int(value) if isinstance(value, int) else max(value)
