"""Shares a model's layers out over the processes that train it, by torch's FSDP2, and brings whole tensors back.

Each process holds its part of every layer's weights, gradients and optimizer states (Zhao et al. 2023,
arXiv:2304.11277); a layer is put together while it computes. What stands outside the layers, embeddings and head, stays
whole in each process. What is trained and how is not decided here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map
from transformers import PreTrainedModel

from llm_runner.errors import ConfigInvalid
from llm_runner.model.targets import layers_of


def shard_layers(model: PreTrainedModel, processes: int, device: torch.device) -> int:
    """Shares out each layer of the decoder, in place; returns how many there are. All processes must call it.

    A model that waits on the host is brought to ``device`` a layer at a time, so that it never has to fit there whole.
    """
    decoder: Any = model.get_decoder()
    layers = layers_of(decoder)
    if not layers:
        kind = model.config.model_type
        raise ConfigInvalid(f"compute.parallelism: {kind} has no list of layers to share out; write parallelism: ddp")
    mesh = init_device_mesh(device.type, (processes,))
    inside = {parameter for layer in layers for parameter in layer.parameters()}
    for layer in layers:
        _sum_gradients(fully_shard(layer, mesh=mesh))
    # The decoder as a whole shares out nothing, but has layers fetched ahead of their turn.
    outside = {parameter for parameter in decoder.parameters() if parameter not in inside}
    _sum_gradients(fully_shard(decoder, mesh=mesh, ignored_params=outside - _shards_of(layers)))
    if model.device.type != device.type:
        # The rest, and what layers have besides weights; a share is on the device already.
        model.to(device)  # type: ignore[arg-type]
    return len(layers)


def is_shared_out(value: object) -> bool:
    return isinstance(value, DTensor)


def to_whole(value: torch.Tensor) -> torch.Tensor:
    """A shared-out tensor put together; all processes must call it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def to_wholes(state: Any) -> Any:
    """The same for all tensors in nested lists and mappings."""
    return tree_map(lambda value: to_whole(value) if isinstance(value, torch.Tensor) else value, state)


def to_share_of(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor shared out as ``like`` is; all processes must call it."""
    if not isinstance(like, DTensor):
        return value
    on_device = value.to(device=like.device, dtype=like.dtype)
    return distribute_tensor(on_device, like.device_mesh, like.placements)


def share_optimizer_state(state: Mapping[str, Any], parameters: Sequence[torch.Tensor]) -> dict[str, Any]:
    """A whole state_dict of an optimizer of ``parameters``, with what belongs to a weight shared out as it is."""

    def share(number: int, values: Mapping[str, Any]) -> dict[str, Any]:
        like = parameters[number]
        return {
            key: to_share_of(value, like) if isinstance(value, torch.Tensor) and value.shape == like.shape else value
            for key, value in values.items()
        }

    return {**state, "state": {number: share(number, values) for number, values in state["state"].items()}}


def total_norm(grads: Sequence[torch.Tensor]) -> torch.Tensor:
    """L2 norm over all of them, shared out or not."""
    whole = [grad for grad in grads if not isinstance(grad, DTensor)]
    shared = [grad for grad in grads if isinstance(grad, DTensor)]
    norms = [to_whole(torch.nn.utils.get_total_norm(part)) for part in (whole, shared) if part]
    return torch.linalg.vector_norm(torch.stack([norm.float() for norm in norms])) if norms else torch.zeros(())


def put_together(model: nn.Module, *, wanted: Callable[[nn.Parameter], bool], keeps: bool) -> None:
    """Has each wanted weight whole on the host where ``keeps``, for storing; the model computes nothing after that."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if isinstance(parameter, DTensor) and wanted(parameter):
                whole = parameter.full_tensor()
                if keeps:
                    module._parameters[name] = nn.Parameter(whole.cpu(), requires_grad=parameter.requires_grad)


def _shards_of(layers: Sequence[nn.Module]) -> set[nn.Parameter]:
    """Their parameters as they are after sharing out."""
    return {parameter for layer in layers for parameter in layer.parameters()}


def _sum_gradients(module: Any) -> None:
    """A step's loss is divided by all of its targets already, so gradients are summed and not averaged."""
    module.set_gradient_divide_factor(1.0)
    module.set_force_sum_reduction_for_comms(True)
