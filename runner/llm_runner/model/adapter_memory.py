"""What an adapter needs in a training step beside its own weights, for the types whose forward pass is PEFT's own.

LoRA's fused pass keeps nothing to speak of. Others copy a layer's inputs into float32, and some build a matrix as large
as the layer's own in every pass. Knows nothing of the base model's need.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from llm_api.config import BoftAdapter, LohaAdapter, LokrAdapter, LoraAdapter, OftAdapter, VeraAdapter
from llm_api.config.adapter import AnyAdapter
from transformers import PreTrainedModel

from llm_runner.model.adapter import add_adapter, count_trainable
from llm_runner.model.peft_config import to_peft_config
from llm_runner.model.targets import attention_targets, matched_modules, width_of

FLOAT = 4


@dataclass(frozen=True)
class AdapterNeed:
    """Bytes, but for the first."""

    trained: int
    """Numbers that are trained."""
    held: int = 0
    """As long as the model is there."""
    kept: int = 0
    """For backward, however many tokens there are."""
    kept_by_token: int = 0

    def __add__(self, other: "AdapterNeed") -> "AdapterNeed":
        return AdapterNeed(
            self.trained + other.trained,
            self.held + other.held,
            self.kept + other.kept,
            self.kept_by_token + other.kept_by_token,
        )


def need_of(model: PreTrainedModel, adapter: AnyAdapter, dtype: torch.dtype, total_steps: int) -> AdapterNeed:
    """Of a model on the meta device, which may be changed.

    Raises what ``add_adapter`` raises.
    """
    # Raises for modules that aren't there or don't fit, before they are measured.
    to_peft_config(adapter, model, total_steps)
    widths = _widths(model, adapter)
    if isinstance(adapter, BoftAdapter):
        # PEFT builds its matrices number by number, which needs real ones.
        return _sum(_boft_layer(adapter, inputs, outputs, dtype) for inputs, outputs in widths)
    # How it starts changes no size, and may need weights.
    start = {"init_lora_weights": "default"} if isinstance(adapter, LoraAdapter) else {}
    fresh = adapter.model_copy(update={"pretrained_adapter_weights": None, **start})
    trained = count_trainable(add_adapter(model, fresh, total_steps))
    return _sum((AdapterNeed(trained, _held_bytes(adapter, trained, widths)), *_layers(adapter, widths, dtype)))


def _widths(model: PreTrainedModel, adapter: AnyAdapter) -> list[tuple[int, int]]:
    """Inputs and outputs of the layers of a type that needs more than LoRA."""
    if not isinstance(adapter, VeraAdapter | LohaAdapter | LokrAdapter | OftAdapter | BoftAdapter):
        return []
    targets = attention_targets(model) if adapter.target_modules is None else adapter.target_modules
    return [width_of(module) for module in matched_modules(model, targets).values()]


def _layers(adapter: AnyAdapter, widths: list[tuple[int, int]], dtype: torch.dtype) -> Iterable[AdapterNeed]:
    for inputs, outputs in widths:
        # Layers side by side share an input that needs no copy.
        seen = FLOAT * inputs if dtype.itemsize < FLOAT else FLOAT * inputs // 2
        if isinstance(adapter, VeraAdapter):
            yield AdapterNeed(0, kept_by_token=seen + FLOAT * adapter.r)
        elif isinstance(adapter, OftAdapter):
            block = adapter.effective_block_size or inputs // adapter.r
            yield AdapterNeed(0, kept=4 * FLOAT * inputs * block, kept_by_token=seen)
        else:
            yield AdapterNeed(0, kept=FLOAT * inputs * outputs, kept_by_token=seen)


def _held_bytes(adapter: AnyAdapter, trained: int, widths: list[tuple[int, int]]) -> int:
    """VeRA's random matrices are as wide as the widest layers; a start in the base is kept beside what it becomes."""
    if isinstance(adapter, LoraAdapter) and adapter.starts_in_base:
        return FLOAT * trained
    if not isinstance(adapter, VeraAdapter):
        return 0
    return FLOAT * adapter.r * (max(one for one, _ in widths) + max(other for _, other in widths))


def _boft_layer(adapter: BoftAdapter, inputs: int, outputs: int, dtype: torch.dtype) -> AdapterNeed:
    """A rotation is a whole matrix of inputs by inputs, and so are the permutation beside it and their products."""
    square = inputs * inputs
    copied = square * dtype.itemsize if dtype.itemsize < FLOAT else 0
    return AdapterNeed(
        trained=inputs * adapter.boft_block_size + outputs,
        held=FLOAT * square,
        kept=2 * square * dtype.itemsize + copied,
        kept_by_token=dtype.itemsize * (outputs + inputs // 2),
    )


def _sum(needs: Iterable[AdapterNeed]) -> AdapterNeed:
    return sum(needs, start=AdapterNeed(0))
