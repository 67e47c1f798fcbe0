"""Puts a stored adapter into a base model: to use it, or to go on training it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from llm_api.config.adapter import AdaLoraAdapter, AnyAdapter
from peft import PeftConfig, PeftModel, PeftType
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel

from llm_runner.errors import ConfigInvalid, ModelNotFound
from llm_runner.model.silence import peft_silenced
from llm_runner.model.targets import Targets, is_transposed, matched_modules

KEPT_FROM_RUN = (
    "lora_dropout", "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step",
    "boft_dropout", "coft", "eps",
)  # fmt: skip
"""What the run's own config decides, in PEFT's names; the shape of the adapter is the stored one's."""
SHAPE = (
    ("r", "r"), ("alpha", "lora_alpha"), ("alpha", "alpha"), ("init_r", "init_r"), ("oft_block_size", "oft_block_size"),
    ("boft_block_size", "boft_block_size"), ("projection_prng_key", "projection_prng_key"),
    ("use_rslora", "use_rslora"), ("use_dora", "use_dora"), ("bias_type", "bias"),
    ("rank_pattern", "rank_pattern"), ("alpha_pattern", "alpha_pattern"),
)  # fmt: skip
"""Keys of the config, with PEFT's names, that may only say what the stored adapter is."""
LAYERS = ("target_modules", "feedforward_modules", "modules_to_save")
"""Those that say it of layers, which may be named in several ways."""


def load_adapter(model: PreTrainedModel, folder: Path, name: str = "default") -> PeftModel:
    """The model with a stored adapter in it, in evaluation mode.

    Raises:
        ModelNotFound: there is no adapter in the folder, or it does not go into this model.
    """
    return _load(model, folder, _read_config(model, folder), is_trainable=False, name=name)


def add_stored_adapter(model: PeftModel, folder: Path, name: str) -> None:
    """Puts another stored adapter beside those that the model has, without using it yet.

    Raises ModelNotFound as load_adapter does, and ConfigInvalid for another type; the model is then as it was.
    """
    base: Any = model.get_base_model()
    config = _read_config(base, folder)
    config.inference_mode = True
    _check_same_type(model, folder, config)
    try:
        with _damage_named(folder), peft_silenced():
            model.load_adapter(str(folder), name, is_trainable=False, peft_config=config)
    except ModelNotFound:
        if name in model.peft_config:
            model.delete_adapter(name)
        raise


def load_pretrained_adapter(
    model: PreTrainedModel,
    path: Path,
    adapter: AnyAdapter,
    wanted: PeftConfig,
) -> PeftModel:
    """The model with a stored adapter in it, trainable, with this run's dropout and schedule.

    Raises:
        ModelNotFound: there is no adapter in the folder, or it is damaged.
        ConfigInvalid: it is another one than the config says.
    """
    stored = _read_config(model, path)
    _check_same_shape(stored, wanted, adapter)
    _check_same_layers(model, stored, wanted, adapter)
    _check_given_ranks(stored, adapter)
    for key in KEPT_FROM_RUN:
        if hasattr(wanted, key):
            setattr(stored, key, getattr(wanted, key))
    stored.inference_mode = False
    return _load(model, path, stored, is_trainable=True)


def _read_config(model: PreTrainedModel, folder: Path) -> PeftConfig:
    missing = [name for name in ("adapter_config.json", "adapter_model.safetensors") if not (folder / name).is_file()]
    if missing:
        raise ModelNotFound(f"adapter: {folder} has no {' and no '.join(missing)}, so there is no adapter in it")
    config: PeftConfig = PeftConfig.from_pretrained(str(folder))
    if hasattr(config, "fan_in_fan_out"):
        # 4-bit loading turns transposed layers round; the adapter may come from either form of the base.
        targets: set[str] | str = getattr(config, "target_modules", set())
        config.fan_in_fan_out = is_transposed(model, targets if isinstance(targets, str) else sorted(targets))
    if getattr(model, "is_loaded_in_4bit", False) and config.peft_type in (PeftType.LOHA, PeftType.LOKR):
        raise ConfigInvalid(
            f"adapter: the one in {folder} is of type {PeftType(config.peft_type).value.lower()}, which can't go "
            "beside layers in 4 bits; leave out quantization, or write 8 bits"
        )
    return config


def _load(
    model: PreTrainedModel, folder: Path, config: PeftConfig, *, is_trainable: bool, name: str = "default"
) -> PeftModel:
    with _damage_named(folder), peft_silenced():
        loaded = PeftModel.from_pretrained(model, str(folder), name, is_trainable=is_trainable, config=config)
        if config.peft_type == PeftType.ADALORA:
            _take_unrounded(loaded, folder, name)
    return loaded


@torch.no_grad()
def _take_unrounded(model: PeftModel, folder: Path, name: str) -> None:
    """PEFT 0.21 makes matrices of AdaLoRA's ranks in the type of the base, and what it loads is rounded to that."""
    stored = load_file(folder / "adapter_model.safetensors")
    for path, parameter in model.named_parameters():
        value = stored.get(path.removesuffix(f".{name}"))
        if value is not None:
            parameter.copy_(value)


@contextmanager
def _damage_named(folder: Path) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise ModelNotFound(
            f"adapter: the weights in {folder} are damaged or do not go into this base model: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error


def _check_given_ranks(stored: Any, adapter: AnyAdapter) -> None:
    """AdaLoRA goes on with the ranks that an earlier run has given out."""
    pattern = getattr(stored, "rank_pattern", None)
    if not isinstance(adapter, AdaLoraAdapter) or not pattern or "target_r" not in adapter.model_fields_set:
        return
    mean = sum(sum(ranks) for ranks in pattern.values()) / len(pattern)
    if adapter.target_r < mean:
        raise ConfigInvalid(
            f"adapter.target_r: {adapter.target_r}, but the adapter in pretrained_adapter_weights has been given its "
            f"ranks, {mean:.3g} on average, and goes on with them; leave it out, or start afresh"
        )


def _check_same_type(model: PeftModel, folder: Path, config: PeftConfig) -> None:
    there = next(iter(model.peft_config.values())).peft_type
    if config.peft_type != there:
        own, other = (PeftType(kind).value.lower() for kind in (config.peft_type, there))
        raise ConfigInvalid(
            f"adapter: the one in {folder} is of type {own}, and those that are served beside it are of type {other}; "
            "serve it by itself"
        )


def _check_same_shape(stored: PeftConfig, wanted: PeftConfig, adapter: AnyAdapter) -> None:
    if stored.peft_type != wanted.peft_type:
        raise ConfigInvalid(
            f"adapter.type: {adapter.type}, but the adapter in pretrained_adapter_weights is a "
            f"{PeftType(stored.peft_type).value.lower()}; write that, or start afresh"
        )
    for key, name in SHAPE:
        if not _is_written(adapter, key) or not hasattr(wanted, name):
            continue
        own, there = getattr(wanted, name), getattr(stored, name)
        if own != there:
            raise ConfigInvalid(
                f"adapter.{key}: {_show(own)}, but the adapter in pretrained_adapter_weights has {_show(there)}; leave "
                "the key out, or write that"
            )


def _check_same_layers(model: PreTrainedModel, stored: PeftConfig, wanted: PeftConfig, adapter: AnyAdapter) -> None:
    for key in LAYERS:
        if not _is_written(adapter, key):
            continue
        own, there = (_layers_of(model, getattr(config, key)) for config in (wanted, stored))
        if own != there:
            raise ConfigInvalid(
                f"adapter.{key}: {len(own - there)} layers more and {len(there - own)} fewer than the adapter in "
                f"pretrained_adapter_weights has ({_show(getattr(stored, key))}); leave the key out, or start afresh"
            )


def _layers_of(model: PreTrainedModel, names: Any) -> set[str]:
    targets: Targets = names if isinstance(names, str) else sorted(names or ())
    return set(matched_modules(model, targets))


def _is_written(adapter: AnyAdapter, key: str) -> bool:
    """A null says nothing: it is the same as leaving the key out."""
    return key in adapter.model_fields_set and getattr(adapter, key) is not None


def _show(value: Any) -> str:
    return shorten(str(sorted(value) if isinstance(value, set) else value), 80, placeholder="...")
