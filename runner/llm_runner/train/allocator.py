"""What an adapter does between steps, or has to remember across a resume: AdaLoRA's penalty and rank budget, and what
PiSSA and OLoRA have taken out of the base.

AdaLoRA's algorithm is PEFT's (Zhang et al. 2023, arXiv:2303.10512); it counts on its own forward pass and on one
process that never stops. The flattened forward pass goes around the first, and checkpoints end the second.
"""

from dataclasses import dataclass
from typing import Any

import torch
from peft import AdaLoraConfig, AdaLoraModel, PeftModel

from llm_runner.model.start import has_start, restore_start, start_of

_IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")


@dataclass(frozen=True)
class RankAllocator:
    """Implements ``learner.Allocator`` for a model with an AdaLoRA adapter."""

    tuner: AdaLoraModel
    config: AdaLoraConfig
    are_ranks_given: bool = False
    """Whether an earlier run has given out the ranks: PEFT's plan takes none of those for what is left."""

    def penalty(self) -> torch.Tensor | None:
        """Mean distance of P and Q from orthogonal matrices, weighted (section 3.1, eq. 4)."""
        if self.config.orth_reg_weight == 0.0:
            return None
        distances = [
            _distance_from_orthogonal(value if ".lora_A." in name else value.T)
            for name, value in self.tuner.model.named_parameters()
            if ".lora_A." in name or ".lora_B." in name
        ]
        return torch.stack(distances).mean() * self.config.orth_reg_weight

    def after_update(self, step: int) -> None:
        """Lowers the budget as planned; steps are counted from 1 here, so that the last one ends at target_r."""
        if self.config.init_r > self.config.target_r and not self.are_ranks_given:
            self.tuner.update_and_allocate(step + 1)

    def state_dict(self) -> dict[str, Any]:
        allocator = self.tuner.rankallocator
        state = {name: dict(getattr(allocator, name)) for name in _IMPORTANCE}
        return {**state, "rank_pattern": self.config.rank_pattern}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in _IMPORTANCE:
            setattr(self.tuner.rankallocator, name, dict(state[name]))
        self.config.rank_pattern = state["rank_pattern"]


@dataclass(frozen=True)
class StartKeeper:
    """Implements ``learner.Allocator`` for an update that starts in the base: nothing happens between steps."""

    model: PeftModel

    def penalty(self) -> None:
        return None

    def after_update(self, step: int) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return start_of(self.model)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        restore_start(self.model, state)


def build_allocator(model: PeftModel) -> RankAllocator | StartKeeper | None:
    """None for adapters that need nothing between steps."""
    if has_start(model):
        return StartKeeper(model)
    if not isinstance(model.base_model, AdaLoraModel):
        return None
    config = model.peft_config["default"]
    assert isinstance(config, AdaLoraConfig)
    return RankAllocator(model.base_model, config, are_ranks_given=config.rank_pattern is not None)


def _distance_from_orthogonal(rows: torch.Tensor) -> torch.Tensor:
    """Frobenius norm of R R^T - I."""
    identity = torch.eye(rows.shape[0], device=rows.device, dtype=rows.dtype)
    return (rows @ rows.T - identity).square().sum().sqrt()
