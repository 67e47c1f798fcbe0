"""What the config's keys of an adapter are called in PEFT; known nowhere else. Adds nothing to a model."""

import math
from typing import Any

from llm_api.config import (
    AdaLoraAdapter,
    BoftAdapter,
    Ia3Adapter,
    LohaAdapter,
    LokrAdapter,
    LoraAdapter,
    OftAdapter,
    VeraAdapter,
)
from llm_api.config.adapter import AnyAdapter as Adapter
from peft import (
    AdaLoraConfig,
    BOFTConfig,
    EvaConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftConfig,
    TaskType,
    VeraConfig,
)
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from llm_runner.errors import ConfigInvalid
from llm_runner.model.targets import (
    Targets,
    attention_targets,
    check_divisible,
    check_targets,
    feedforward_among,
    ia3_targets,
    is_transposed,
    matched_modules,
)


def to_peft_config(adapter: Adapter, model: PreTrainedModel, total_steps: int) -> PeftConfig:
    """The adapter section in PEFT's terms, with targets found in the model and checked."""
    if isinstance(adapter, Ia3Adapter):
        return _to_ia3_config(adapter, model)
    targets = attention_targets(model) if adapter.target_modules is None else adapter.target_modules
    check_targets(model, targets)
    shared: dict[str, Any] = {"task_type": TaskType.CAUSAL_LM, "target_modules": targets}
    if isinstance(adapter, LoraAdapter | AdaLoraAdapter):
        return _to_low_rank_config(adapter, model, total_steps, shared)
    if isinstance(adapter, VeraAdapter):
        _check_linear(model, targets, adapter.type, (nn.Linear, Conv1D))
        return _to_vera_config(adapter, model, shared)
    _check_linear(model, targets, adapter.type, (nn.Linear,))
    return _to_plain_config(adapter, model, shared)


def _to_low_rank_config(
    adapter: LoraAdapter | AdaLoraAdapter, model: PreTrainedModel, total_steps: int, shared: dict[str, Any]
) -> PeftConfig:
    low_rank = {
        "lora_alpha": adapter.effective_alpha,
        "lora_dropout": adapter.dropout,
        "bias": adapter.bias_type,
        "fan_in_fan_out": is_transposed(model, shared["target_modules"]),
        **shared,
    }
    if isinstance(adapter, AdaLoraAdapter):
        return _to_adalora_config(adapter, total_steps, low_rank)
    return _to_lora_config(adapter, low_rank)


def _to_lora_config(adapter: LoraAdapter, shared: dict[str, Any]) -> LoraConfig:
    # LoftQ's own start takes the place of the default one afterwards.
    start: Any = True if adapter.init_lora_weights in ("default", "loftq") else adapter.init_lora_weights
    return LoraConfig(
        r=adapter.r,
        use_rslora=adapter.use_rslora,
        use_dora=adapter.use_dora,
        init_lora_weights=start,
        eva_config=EvaConfig(**adapter.effective_eva.model_dump()) if start == "eva" else None,
        rank_pattern=adapter.rank_pattern if adapter.rank_pattern is not None else {},
        alpha_pattern=adapter.alpha_pattern if adapter.alpha_pattern is not None else {},
        **shared,
    )


def _to_adalora_config(adapter: AdaLoraAdapter, total_steps: int, shared: dict[str, Any]) -> AdaLoraConfig:
    planned = total_steps if adapter.total_step is None else adapter.total_step
    if adapter.tinit + adapter.tfinal >= planned:
        raise ConfigInvalid(
            f"adapter: tinit ({adapter.tinit}) and tfinal ({adapter.tfinal}) leave none of the {planned} optimizer "
            "steps to give out ranks in; make them smaller, or train longer"
        )
    return AdaLoraConfig(
        target_r=adapter.target_r,
        init_r=adapter.init_r,
        tinit=adapter.tinit,
        tfinal=adapter.tfinal,
        deltaT=adapter.delta_t,
        beta1=adapter.beta1,
        beta2=adapter.beta2,
        orth_reg_weight=adapter.orth_reg_weight,
        total_step=planned,
        **(shared | {"lora_alpha": _adalora_alpha(adapter)}),
    )


def _adalora_alpha(adapter: AdaLoraAdapter) -> int | float:
    """PEFT 0.21 divides AdaLoRA's updates by the rank that they start with, whatever ``use_rslora`` says."""
    alpha = adapter.effective_alpha
    return alpha * math.sqrt(adapter.init_r) if adapter.use_rslora else alpha


def _to_ia3_config(adapter: Ia3Adapter, model: PreTrainedModel) -> IA3Config:
    targets, feedforward = _ia3_modules(adapter, model)
    return IA3Config(
        task_type=TaskType.CAUSAL_LM,
        target_modules=targets,
        feedforward_modules=feedforward,
        # What the user wrote is a guess that the library corrects with a warning; the modules know.
        fan_in_fan_out=is_transposed(model, targets),
        modules_to_save=adapter.modules_to_save,
        init_ia3_weights=adapter.init_ia3_weights,
    )


def _ia3_modules(adapter: Ia3Adapter, model: PreTrainedModel) -> tuple[Targets, Targets]:
    """All targets, and those of them whose input is scaled."""
    if adapter.target_modules is None:
        targets, feedforward = ia3_targets(model)
        return targets, feedforward
    check_targets(model, adapter.target_modules)
    if adapter.feedforward_modules is None:
        return adapter.target_modules, feedforward_among(model, adapter.target_modules)
    return adapter.target_modules, adapter.feedforward_modules


def _to_vera_config(adapter: VeraAdapter, model: PreTrainedModel, shared: dict[str, Any]) -> VeraConfig:
    return VeraConfig(
        r=adapter.r,
        projection_prng_key=adapter.projection_prng_key,
        fan_in_fan_out=is_transposed(model, shared["target_modules"]),
        **shared,
    )


def _to_plain_config(
    adapter: LohaAdapter | LokrAdapter | OftAdapter | BoftAdapter, model: PreTrainedModel, shared: dict[str, Any]
) -> PeftConfig:
    """Of the types that PEFT puts into plain linear layers only."""
    if isinstance(adapter, LohaAdapter):
        return LoHaConfig(r=adapter.r, **(shared | {"alpha": adapter.alpha}))
    if isinstance(adapter, LokrAdapter):
        return LoKrConfig(r=adapter.r, **(shared | {"alpha": adapter.alpha}))
    if isinstance(adapter, OftAdapter):
        return _to_oft_config(adapter, model, shared)
    check_divisible(model, shared["target_modules"], adapter.boft_block_size, "boft_block_size")
    return BOFTConfig(boft_block_size=adapter.boft_block_size, boft_dropout=adapter.boft_dropout, **shared)


def _to_oft_config(adapter: OftAdapter, model: PreTrainedModel, shared: dict[str, Any]) -> OFTConfig:
    """With Cayley's own formula: the five terms of its series, PEFT's default, are no rotation any more where an
    adapter has learnt much (R R' - I of norm 0.96 after 60 steps of a small model, and of millions after 200)."""
    size = adapter.effective_block_size
    check_divisible(model, shared["target_modules"], size or adapter.r, "oft_block_size" if size else "r")
    return OFTConfig(
        r=adapter.r,
        oft_block_size=size,
        use_cayley_neumann=False,
        coft=adapter.coft,
        eps=adapter.eps,
        **shared,
    )


def _check_linear(model: PreTrainedModel, targets: Targets, kind: str, taken: tuple[type[nn.Module], ...]) -> None:
    """Raises where the type can't go into a layer, such as those that GPT-2 stores transposed."""
    for name, module in matched_modules(model, targets).items():
        if not isinstance(module, taken):
            raise ConfigInvalid(
                f"adapter.type: {kind} goes into plain linear layers only, and {name} is a {type(module).__name__}; "
                "write lora, or other target_modules"
            )
