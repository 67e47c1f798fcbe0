"""Longer contexts by scaling rotary position embeddings, and how long a model's context then is.

``linear`` divides positions by the factor (Chen et al. 2023, arXiv:2306.15595); ``dynamic`` raises the base with the
sequence's length (NTK-aware). The formulas are the library's; here they are only switched on.
"""

from typing import Any

from llm_api.config import ModelParameters
from transformers import PretrainedConfig

from llm_runner.errors import ConfigInvalid

UNBOUNDED_CONTEXT = 2**31 - 1
"""The context length of a model that names no limit."""

CONTEXT_KEYS = ("max_position_embeddings", "max_sequence_length", "max_seq_len", "seq_length", "n_positions")
OWN_KEYS = ("rope_theta", "partial_rotary_factor")
SCALED_TYPES = ("linear", "dynamic")


def scale_rope(config: PretrainedConfig, model_parameters: ModelParameters | None) -> None:
    """Puts ``model_parameters.rope_scaling`` into the model's config, in place of a scaling that it came with.

    ``max_position_embeddings`` becomes what the base was trained with: the library and servers derive from it.

    Raises:
        ConfigInvalid: the model has no rotary embeddings that can be scaled.
    """
    scaling = _scaling(model_parameters)
    if scaling is None:
        return
    text = config.get_text_config()
    own = getattr(text, "rope_parameters", None)
    if not own:
        raise ConfigInvalid(
            f"model_parameters.rope_scaling: a model of type {text.model_type} has no rotary embeddings to scale; "
            "leave the key out"
        )
    trained = _trained_context(text)
    if "full_attention" in own:
        # Layers that look at a sliding window never reach a position past it.
        text.rope_parameters = {**own, "full_attention": _scaled(own["full_attention"], scaling)}
    else:
        text.rope_parameters = _scaled(own, scaling)
    if trained is not None:
        text.max_position_embeddings = trained


def context_length(config: PretrainedConfig, model_parameters: ModelParameters | None = None) -> int:
    """How many tokens the model takes, with the scaling of the model's own config or, if there is one, the given."""
    text = config.get_text_config()
    scaling = _scaling(model_parameters)
    if scaling is not None:
        limit = _trained_context(text)
        return UNBOUNDED_CONTEXT if limit is None else int(limit * scaling[1])
    limit = _stated_context(text)
    return UNBOUNDED_CONTEXT if limit is None else int(limit * _own_factor(text))


def _scaling(model_parameters: ModelParameters | None) -> tuple[str, float] | None:
    """The kind and the factor of a scaling that is switched on."""
    scaling = None if model_parameters is None else model_parameters.rope_scaling
    if scaling is None or scaling.kind is None or scaling.factor is None:
        return None
    return scaling.kind, scaling.factor


def _scaled(own: dict[str, Any], scaling: tuple[str, float]) -> dict[str, Any]:
    kept = {key: own[key] for key in OWN_KEYS if own.get(key) is not None}
    return {**kept, "rope_type": scaling[0], "factor": float(scaling[1])}


def _stated_context(text: PretrainedConfig) -> int | None:
    values = (getattr(text, key, None) for key in CONTEXT_KEYS)
    return next((int(value) for value in values if isinstance(value, int) and value > 0), None)


def _trained_context(text: PretrainedConfig) -> int | None:
    """The context before the model's own extension, if it came with one."""
    own = _own_rope(text)
    original = own.get("original_max_position_embeddings")
    return _stated_context(text) if original is None else int(original)


def _own_factor(text: PretrainedConfig) -> float:
    own = _own_rope(text)
    return float(own["factor"]) if own.get("rope_type") in SCALED_TYPES else 1.0


def _own_rope(text: PretrainedConfig) -> dict[str, Any]:
    own: dict[str, Any] = getattr(text, "rope_parameters", None) or {}
    return own.get("full_attention") or own
