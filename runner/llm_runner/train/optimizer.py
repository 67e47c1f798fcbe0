"""The config's optimizer as a torch or bitsandbytes one.

The libraries' keyword arguments are the config's keys, so that this is a table and little else. What a library no
longer has is refused by name; nothing that a user wrote is dropped silently.
"""

from collections.abc import Callable, Iterable
from typing import Any

import bitsandbytes.optim as bnb
import torch
from llm_api.config import Optimizer
from transformers.optimization import Adafactor

from llm_runner.errors import ConfigInvalid

_MAKERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adadelta": torch.optim.Adadelta,
    "adafactor": Adafactor,
    "adagrad": torch.optim.Adagrad,
    "adagrad_8bit": bnb.Adagrad8bit,
    "adam": torch.optim.Adam,
    "adam_8bit": bnb.Adam8bit,
    "adamax": torch.optim.Adamax,
    "adamw": torch.optim.AdamW,
    "adamw_8bit": bnb.AdamW8bit,
    "lamb": bnb.LAMB,
    "lamb_8bit": bnb.LAMB8bit,
    "lars": bnb.LARS,
    "lars_8bit": bnb.LARS8bit,
    "lion": bnb.Lion,
    "lion_8bit": bnb.Lion8bit,
    "muon": torch.optim.Muon,
    "nadam": torch.optim.NAdam,
    "paged_adam": bnb.PagedAdam,
    "paged_adam_8bit": bnb.PagedAdam8bit,
    "paged_adamw": bnb.PagedAdamW,
    "paged_adamw_8bit": bnb.PagedAdamW8bit,
    "paged_lion": bnb.PagedLion,
    "paged_lion_8bit": bnb.PagedLion8bit,
    "radam": torch.optim.RAdam,
    "rmsprop": torch.optim.RMSprop,
    "rmsprop_8bit": bnb.RMSprop8bit,
    "sgd": torch.optim.SGD,
    "sgd_8bit": bnb.SGD8bit,
}

_REFUSED = {
    "lbfgs": "it evaluates the loss several times a step, which accumulated batches don't allow; use adamw",
    "schedule_free_adamw": "its package is not part of this runner; use adamw with learning_rate_scheduler",
}

PROBE_SHAPE = (128, 64)
"""Large enough for 8-bit states, which bitsandbytes keeps from 4,096 numbers on."""

_GONE = ("percentile_clipping", "block_wise")
"""Keys that bitsandbytes 0.50 took away."""

_UNHEARD = {
    "lamb": ("amsgrad", "bias_correction", "adam_w_mode"),
    "lamb_8bit": ("bias_correction", "adam_w_mode"),
    "lars": ("dampening", "nesterov"),
    "lars_8bit": ("dampening", "nesterov", "max_unorm"),
    "paged_adam": ("amsgrad",),
    "paged_adamw": ("amsgrad",),
    "rmsprop_8bit": ("momentum",),
    "sgd_8bit": ("dampening", "nesterov"),
}
"""Keys that bitsandbytes takes and then computes without, whatever they say."""


def build_optimizer(
    config: Optimizer, parameters: Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]], learning_rate: float
) -> torch.optim.Optimizer:
    """Of parameters or groups of them. Raises ConfigInvalid for what the libraries can't do, naming the key and what
    to write instead.
    """
    trained: list[Any] = list(parameters)
    each = [one for part in trained for one in (part["params"] if isinstance(part, dict) else [part])]
    if config.type == "muon" and any(parameter.ndim != 2 for parameter in each):
        raise ConfigInvalid(
            "trainer.optimizer.type: muon updates matrices only, and this run trains vectors too; use adamw"
        )
    return _MAKERS[config.type](trained, **to_keywords(config, learning_rate))


def check_optimizer(config: Optimizer, device: torch.device) -> None:
    """Takes one step on a matrix of no meaning, so that what can't be used here is said before a model is loaded.

    Raises ConfigInvalid.
    """
    if config.type in _REFUSED:
        raise ConfigInvalid(f"trainer.optimizer.type: {config.type} can't be used here: {_REFUSED[config.type]}")
    matrix = torch.nn.Parameter(torch.ones(PROBE_SHAPE, device=device))
    matrix.grad = torch.ones_like(matrix)
    try:
        build_optimizer(config, [matrix], learning_rate=1e-4).step()
    except (ValueError, NotImplementedError, RuntimeError) as error:
        said = str(error).splitlines()[0]
        raise ConfigInvalid(f"trainer.optimizer: {config.type} can't be used with these keys here: {said}") from error


def to_keywords(config: Optimizer, learning_rate: float) -> dict[str, Any]:
    """Keyword arguments of the library's class for ``config``."""
    _check_heard(config)
    values = config.model_dump(exclude={"type", *_GONE})
    if values.get("lr") is None:
        values["lr"] = None if values.get("relative_step", False) else learning_rate
    return values


def _check_heard(config: Optimizer) -> None:
    """Raises ConfigInvalid for a key that says something which the library would not do."""
    for key in (*_GONE, *_UNHEARD.get(config.type, ())):
        field = type(config).model_fields.get(key)
        # Only 8-bit states have blocks: elsewhere it never meant anything, and other tools print it as false.
        meant_nothing = key == "block_wise" and not config.type.endswith("_8bit")
        if field is None or meant_nothing or getattr(config, key) == field.default:
            continue
        advice = " and use trainer.gradient_clipping" if key == "percentile_clipping" else ""
        raise ConfigInvalid(
            f"trainer.optimizer.{key}: found {getattr(config, key)}, but bitsandbytes takes no notice of it with "
            f"{config.type}; leave it out{advice}"
        )
