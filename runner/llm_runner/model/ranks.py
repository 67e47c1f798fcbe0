"""Gives AdaLoRA's layers the ranks that are written for them, as an earlier run has found them. Moves no ranks."""

from collections.abc import Mapping

from peft import AdaLoraConfig, PeftModel
from peft.tuners.adalora import AdaLoraLayer
from torch import nn

from llm_runner.errors import ConfigInvalid

_NAME = "default"
_STORED_START, _STORED_END = "base_model.model.", ".lora_E"


def give_ranks(model: PeftModel, pattern: Mapping[str, int | list[bool]]) -> None:
    """Cuts the layers that are named down to their ranks, and notes them where PEFT keeps those it has given out.

    Raises ConfigInvalid where a name is none of a layer that has an update.
    """
    config = model.peft_config[_NAME]
    assert isinstance(config, AdaLoraConfig)
    given: dict[str, list[bool]] = {}
    for name, rank in pattern.items():
        for path, layer in _find_layers(model, name).items():
            wanted = rank if isinstance(rank, int) else sum(rank)
            _cut(layer, wanted)
            given[f"{path}{_STORED_END}.{_NAME}"] = [place < wanted for place in range(config.init_r)]
    config.rank_pattern = given


def _find_layers(model: PeftModel, name: str) -> dict[str, AdaLoraLayer]:
    """By their paths in the base: those that the name is, or ends; names as PEFT stores them will do."""
    wanted = name.removesuffix(f".{_NAME}").removesuffix(_STORED_END).removeprefix(_STORED_START)
    layers = {path: one for path, one in model.get_base_model().named_modules() if isinstance(one, AdaLoraLayer)}
    found = {path: one for path, one in layers.items() if path == wanted or path.endswith(f".{wanted}")}
    if not found:
        raise ConfigInvalid(
            f"adapter.rank_pattern: {name!r} is no layer with an update; those are called like {next(iter(layers))}"
        )
    return found


def _cut(layer: AdaLoraLayer, rank: int) -> None:
    """The first ``rank`` of the layer's ranks stay; at the start one is like another."""
    values, rows, columns = (getattr(layer, name) for name in ("lora_E", "lora_A", "lora_B"))
    values[_NAME] = nn.Parameter(values[_NAME].detach()[:rank].clone())
    rows[_NAME] = nn.Parameter(rows[_NAME].detach()[:rank].clone())
    columns[_NAME] = nn.Parameter(columns[_NAME].detach()[:, :rank].clone())
    layer.r[_NAME] = rank
