"""Float32 copies of 16-bit weights that are trained, which collect updates too small for 16 bits to hold.

A bfloat16 number has eight bits: adding a ten-thousandth of it changes nothing, and that is what an optimizer does most
of the time (Micikevicius et al. 2018, arXiv:1710.03740, section 3.1). Adapters are in float32 already and have none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from llm_runner.train.sharding import to_share_of


@dataclass(frozen=True)
class MasterWeights:
    """What an optimizer updates in place of a model's trained weights, by the names of these."""

    trained: Mapping[str, nn.Parameter]
    masters: Mapping[str, nn.Parameter]
    """The weight itself where it is in float32."""

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        return list(self.masters.values())

    def take_gradients(self) -> None:
        """Adds the gradients of 16-bit weights to those of their copies, after each backward pass."""
        for weight, master in self._pairs():
            if weight.grad is not None:
                grad, weight.grad = weight.grad.float(), None
                master.grad = grad if master.grad is None else master.grad.add_(grad)

    def give_back(self) -> None:
        """Rounds what the optimizer made of the copies into the weights."""
        with torch.no_grad():
            for weight, master in self._pairs():
                weight.copy_(master)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {name: master.detach() for name, master in self.masters.items() if master is not self.trained[name]}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, value in state.items():
                self.masters[name].copy_(to_share_of(value, self.masters[name]))

    def _pairs(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        pairs = ((weight, self.masters[name]) for name, weight in self.trained.items())
        return [(weight, master) for weight, master in pairs if master is not weight]


def build_masters(model: nn.Module) -> MasterWeights:
    """For all weights of the model that are trained."""
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    masters = {
        name: value if value.dtype == torch.float32 else nn.Parameter(value.detach().float())
        for name, value in trained.items()
    }
    return MasterWeights(trained, masters)
