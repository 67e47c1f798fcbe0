"""Which modules of a model an adapter goes into: found when the config names none, checked when it does."""

import math
import re
from typing import Any, TypeAlias

from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
    TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
)
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from llm_runner.errors import ConfigInvalid, TargetModulesNotFound

Targets: TypeAlias = list[str] | str
"""Names of modules or the ends of their paths, or one regex for whole paths."""

ALL_LINEAR = "all-linear"

QUERY_NAMES = {"q_proj", "query", "query_proj", "q", "q_lin", "q_b_proj", "wq", "Wq", "to_q"}
KEY_NAMES = {"k_proj", "key", "key_proj", "k", "k_lin", "wk", "Wk", "to_k"}
VALUE_NAMES = {"v_proj", "value", "value_proj", "v", "v_lin", "kv_b_proj", "wv", "Wv", "to_v"}
FUSED_NAMES = {"c_attn", "query_key_value", "qkv_proj", "Wqkv", "wqkv", "qkv", "W_pack", "att_proj"}
OTHER_TOWERS = ("vision", "visual", "image", "audio", "speech")


def layers_of(decoder: nn.Module) -> list[nn.Module]:
    """The layers that it is a stack of; empty where it has no list of them."""
    lists = [list(child) for child in decoder.children() if isinstance(child, nn.ModuleList)]
    return max(lists, key=len, default=[])


def linear_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Every linear layer by its path, without the output head; quantized ones and GPT-2's transposed ones too."""
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }


def attention_targets(model: PreTrainedModel) -> Targets:
    """The query and value projections: names of modules, or a regex where a name alone would take too much in.

    Raises:
        TargetModulesNotFound: no layer looks like attention.
    """
    names = _text_linear_names(model)
    leaves = {_leaf(name) for name in names}
    chosen = leaves & (QUERY_NAMES | VALUE_NAMES)
    if not (leaves & QUERY_NAMES and leaves & VALUE_NAMES):
        chosen = (leaves & FUSED_NAMES) or _table_leaves(model, leaves) or _fused_by_shape(model)
    if not chosen:
        raise TargetModulesNotFound(
            f"adapter.target_modules: no attention found in a model of type {model.config.model_type}; "
            f"write the modules to adapt. {describe_linear_modules(model)}"
        )
    return _as_targets(model, chosen)


def ia3_targets(model: PreTrainedModel) -> tuple[Targets, Targets]:
    """All targets of IA3 and those of them that are feed-forward: PEFT's table, else key, value and the MLP's way down.

    Liu et al. 2022, arXiv:2205.05638: keys, values and the hidden activation of the feed-forward are rescaled.
    """
    kind = model.config.get_text_config().model_type
    if kind in TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING:
        targets = list(TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING[kind])
        return targets, list(TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING[kind])
    leaves = {_leaf(name) for name in _text_linear_names(model)}
    attention = leaves & (KEY_NAMES | VALUE_NAMES)
    if not (leaves & KEY_NAMES and leaves & VALUE_NAMES):
        attention = (leaves & FUSED_NAMES) or _fused_by_shape(model)
    down = _down_projections(model)
    if not attention or not down:
        raise TargetModulesNotFound(
            "adapter.target_modules: key, value and feed-forward projections were not found in a model of type "
            f"{kind}; write target_modules and feedforward_modules. {describe_linear_modules(model)}"
        )
    return _as_targets(model, attention | down), _as_targets(model, down)


def check_targets(model: PreTrainedModel, targets: Targets) -> None:
    """Raises unless a regex, or each name of a list, matches a module.

    Raises:
        TargetModulesNotFound: names what matched nothing, and the linear modules that there are.
    """
    if targets == ALL_LINEAR:
        return
    names = [name for name, _ in model.named_modules() if name]
    try:
        unmatched = [text for text in _as_list(targets) if not _match(text, names, targets)]
    except re.error as error:
        raise ConfigInvalid(f"adapter.target_modules: {targets!r} is not a regular expression: {error}") from error
    if unmatched:
        quoted = ", ".join(repr(text) for text in unmatched)
        hint = f" (a text is a regex for a whole path; for a name, write [{targets}])" if targets in unmatched else ""
        raise TargetModulesNotFound(
            f"adapter.target_modules: {quoted} matches no module of the model{hint}. {describe_linear_modules(model)}"
        )


def describe_linear_modules(model: PreTrainedModel) -> str:
    """The linear modules as a person would name them, each once."""
    leaves = sorted({_leaf(name) for name in linear_modules(model)})
    example = next(iter(linear_modules(model)), "none")
    return f"Its linear modules are {', '.join(leaves)} (for example {example})"


def is_transposed(model: PreTrainedModel, targets: Targets) -> bool:
    """Whether the targets store their weights as (inputs, outputs), as GPT-2's do."""
    return any(isinstance(model.get_submodule(name), Conv1D) for name in _matched_linear(model, targets))


def check_divisible(model: PreTrainedModel, targets: Targets, blocks: int, key: str) -> None:
    """Raises where a target's inputs can't be cut into blocks; PEFT would take other blocks there, or stop half-way.

    Raises:
        ConfigInvalid: names the layer and its number of inputs.
    """
    widths = {name: width_of(module)[0] for name, module in matched_modules(model, targets).items()}
    uneven = next((name for name, width in widths.items() if width % blocks), None)
    if uneven is not None:
        raise ConfigInvalid(
            f"adapter.{key}: {blocks}, but {uneven} has {widths[uneven]} inputs, which it does not divide; write a "
            f"divisor of {math.gcd(*widths.values())}"
        )


def feedforward_among(model: PreTrainedModel, targets: Targets) -> list[str]:
    """Names of those targets that are the feed-forward's way down."""
    down = _down_projections(model)
    return sorted({_leaf(name) for name in _matched_linear(model, targets)} & down)


def matched_modules(model: PreTrainedModel, targets: Targets) -> dict[str, nn.Module]:
    """Every module that the targets match, of whatever kind, by its path."""
    if targets == ALL_LINEAR:
        return linear_modules(model)
    named = {name: module for name, module in model.named_modules() if name}
    return {
        name: one for name, one in named.items() if any(_match(text, [name], targets) for text in _as_list(targets))
    }


def _matched_linear(model: PreTrainedModel, targets: Targets) -> list[str]:
    """Paths of the linear layers that the targets match."""
    names = list(linear_modules(model))
    if targets == ALL_LINEAR:
        return names
    return [name for name in names if any(_match(text, [name], targets) for text in _as_list(targets))]


def _as_list(targets: Targets) -> list[str]:
    return [targets] if isinstance(targets, str) else targets


def _match(text: str, names: list[str], targets: Targets) -> bool:
    """PEFT's rule: a text is a regex for the whole path, a list's entry is the path or its end."""
    if isinstance(targets, str):
        return any(re.fullmatch(text, name) for name in names)
    return any(name == text or name.endswith(f".{text}") for name in names)


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _is_text(name: str) -> bool:
    return not any(word in name for word in OTHER_TOWERS)


def _text_linear_names(model: PreTrainedModel) -> list[str]:
    return [name for name in linear_modules(model) if _is_text(name)]


def _table_leaves(model: PreTrainedModel, leaves: set[str]) -> set[str]:
    """What PEFT's own table says of architectures without attention of the usual names."""
    listed: Any = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model.config.get_text_config().model_type, [])
    return leaves & set(_as_list(listed))


def _fused_by_shape(model: PreTrainedModel) -> set[str]:
    """Projections inside an attention module that are wider out than in: query, key and value in one."""
    widths = {name: width_of(module) for name, module in linear_modules(model).items()}
    inside = [name for name in _text_linear_names(model) if _is_attention(name)]
    return {_leaf(name) for name in inside if widths[name][1] > widths[name][0]}


def _down_projections(model: PreTrainedModel) -> set[str]:
    """Projections outside attention that come back to the hidden size from something wider."""
    hidden = model.config.get_text_config().hidden_size
    widths = {name: width_of(module) for name, module in linear_modules(model).items()}
    outside = [name for name in _text_linear_names(model) if not _is_attention(name)]
    return {_leaf(name) for name in outside if widths[name][0] > widths[name][1] == hidden}


def _is_attention(name: str) -> bool:
    """Whether a layer lies in a module that is called attention, or shorter."""
    return "att" in name.rpartition(".")[0].lower()


def width_of(module: nn.Module) -> tuple[int, int]:
    """Features in and out of a linear layer."""
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    assert isinstance(module, nn.Linear)
    return module.in_features, module.out_features


def _as_targets(model: PreTrainedModel, leaves: set[str]) -> Targets:
    matched = [name for name, _ in model.named_modules() if _leaf(name) in leaves]
    if all(_is_text(name) for name in matched):
        return sorted(leaves)
    return rf"(?!.*({'|'.join(OTHER_TOWERS)})).*\.({'|'.join(sorted(leaves))})"
