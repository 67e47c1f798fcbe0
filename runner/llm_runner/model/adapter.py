"""Adds an adapter to a base model, and says which weights are trained. It builds no optimizer."""

import re
from pathlib import Path
from typing import Any

import torch
from llm_api.config import AdaLoraAdapter, LoraAdapter
from llm_api.config.adapter import STARTS_UNQUANTIZED
from llm_api.config.adapter import AnyAdapter as Adapter
from peft import PeftModel, get_peft_model
from transformers import PreTrainedModel

from llm_runner.errors import ConfigInvalid, TargetModulesNotFound
from llm_runner.model.loftq import start_by_loftq
from llm_runner.model.peft_config import to_peft_config
from llm_runner.model.pretrained import load_pretrained_adapter
from llm_runner.model.ranks import give_ranks
from llm_runner.model.silence import peft_silenced
from llm_runner.model.start import keep_start
from llm_runner.model.targets import describe_linear_modules


def add_adapter(
    model: PreTrainedModel,
    adapter: Adapter,
    total_steps: int,
    *,
    pretrained_path: Path | None = None,
) -> PeftModel:
    """The model with the adapter in it: only the adapter is trainable, and it is held in float32.

    Args:
        total_steps: optimizer steps of the run; AdaLoRA plans its ranks by them.
        pretrained_path: a local adapter folder to go on from, in place of ``adapter.pretrained_adapter_weights``.

    Raises:
        TargetModulesNotFound: the adapter would go into nothing.
        ConfigInvalid: the adapter and the model, or the pretrained adapter, do not fit.
    """
    _check_quantized(model, adapter)
    with peft_silenced("error"):
        peft_config = to_peft_config(adapter, model, total_steps)
    _check_layout(adapter, peft_config)
    start = adapter.pretrained_adapter_weights if pretrained_path is None else pretrained_path
    try:
        if start is not None:
            return _with_fixed_scales(load_pretrained_adapter(model, Path(start), adapter, peft_config))
        with peft_silenced("error"):
            added: PeftModel = _with_fixed_scales(get_peft_model(model, peft_config))
    except ValueError as error:
        if "rank to be even" in str(error) or "not greater than min" in str(error):
            raise ConfigInvalid(f"adapter.init_lora_weights: {error}") from error
        if "arget module" not in str(error):
            raise
        raise TargetModulesNotFound(f"adapter.target_modules: {error}. {describe_linear_modules(model)}") from error
    if isinstance(adapter, AdaLoraAdapter) and adapter.rank_pattern is not None:
        give_ranks(added, adapter.rank_pattern)
    if isinstance(adapter, LoraAdapter) and adapter.starts_in_base:
        keep_start(added)
    if isinstance(adapter, LoraAdapter) and adapter.init_lora_weights == "loftq":
        start_by_loftq(added, Path(str(model.name_or_path)))
    return added


def _with_fixed_scales(model: PeftModel) -> PeftModel:
    """PEFT 0.21 lets what AdaLoRA divides its updates by be trained beside a base of 16 bits, and never stores it."""
    for name, parameter in model.named_parameters():
        if ".ranknum." in name:
            parameter.requires_grad_(False)
    return model


def _check_quantized(model: PreTrainedModel, adapter: Adapter) -> None:
    if not isinstance(adapter, LoraAdapter) or not getattr(model, "is_quantized", False):
        return
    if adapter.use_dora:
        raise ConfigInvalid(
            "adapter.use_dora: DoRA needs an unquantized base model; leave out quantization, or use_dora"
        )
    if adapter.init_lora_weights in STARTS_UNQUANTIZED:
        raise ConfigInvalid(
            f"adapter.init_lora_weights: {adapter.init_lora_weights} needs an unquantized base model; leave out "
            "quantization, or write gaussian"
        )


def _check_layout(adapter: Adapter, peft_config: Any) -> None:
    """PEFT 0.21 takes OLoRA's start out of transposed weights as if they weren't: the model is then another one."""
    if isinstance(adapter, LoraAdapter) and adapter.init_lora_weights == "olora" and peft_config.fan_in_fan_out:
        raise ConfigInvalid(
            "adapter.init_lora_weights: olora can't start in layers that store their weights transposed, as GPT-2's "
            "do; write pissa"
        )


def mark_trainable(model: PreTrainedModel, freeze_regex: str | None = None) -> int:
    """Sets what full fine-tuning trains: every weight, but those whose path the regex finds. Returns their number.

    Raises:
        ConfigInvalid: the regex matches no weight, or all of them.
    """
    frozen = 0
    for name, parameter in model.named_parameters():
        is_frozen = freeze_regex is not None and re.search(freeze_regex, name) is not None
        parameter.requires_grad_(not is_frozen)
        frozen += is_frozen
    trainable = count_trainable(model)
    if freeze_regex is not None and (frozen == 0 or trainable == 0):
        names = [name for name, _ in model.named_parameters()]
        raise ConfigInvalid(
            f"trainer.layers_to_freeze_regex: {freeze_regex!r} matches {'all' if frozen else 'none'} of the weights; "
            f"they are called like {names[0]} and {names[-1]}"
        )
    return trainable


def count_trainable(model: torch.nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
