"""The prompts of a batch, padded to the left as the library wants it, and what belongs to each row of its own.

A row's bounds and randomness stand here, so that its answer doesn't depend on its neighbours. Generates nothing.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowPlan:
    """One answer to be generated."""

    prompt_ids: list[int]
    """At least one token."""
    most_new_tokens: int
    fewest_new_tokens: int = 0
    seed: int = 0


class Uniforms:
    """Numbers from 0 up to 1 by the step that they are for: asked again, a step has the same one."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._drawn: list[float] = []

    def at(self, step: int) -> float:
        while len(self._drawn) <= step:
            # 24 bits: exact in a float32, so never rounded up to 1.
            self._drawn.append(self._random.getrandbits(24) / 2**24)
        return self._drawn[step]


@dataclass(frozen=True)
class Rows:
    """A batch of prompts; tensors that a search makes of it have one or more rows for each, next to each other."""

    plans: Sequence[RowPlan]
    input_ids: Tensor
    """[rows, width], padded on the left."""
    attention_mask: Tensor
    """[rows, width], 1 at tokens and 0 at padding."""
    uniforms: list[Uniforms] = field(default_factory=list)

    @property
    def width(self) -> int:
        """Length of the longest prompt."""
        return self.input_ids.shape[1]

    def step(self, ids: Tensor) -> int:
        """How many tokens have been generated in ``ids``, which begin with the padded prompts."""
        return ids.shape[1] - self.width

    def spread(self, of_rows: Tensor, to: Tensor) -> Tensor:
        """A value for each prompt [rows, ...] as one for each row of ``to`` [rows x n, ...]."""
        return of_rows.to(to.device).repeat_interleave(to.shape[0] // len(self.plans), dim=0)

    def most_new_tokens(self) -> Tensor:
        return torch.tensor([plan.most_new_tokens for plan in self.plans], device=self.input_ids.device)

    def fewest_new_tokens(self) -> Tensor:
        return torch.tensor([plan.fewest_new_tokens for plan in self.plans], device=self.input_ids.device)


def build_rows(plans: Sequence[RowPlan], pad_id: int, device: torch.device | str = "cpu") -> Rows:
    """Pads the prompts of ``plans`` to the longest."""
    width = max(len(plan.prompt_ids) for plan in plans)
    missing = [width - len(plan.prompt_ids) for plan in plans]
    ids = [[pad_id] * gap + list(plan.prompt_ids) for gap, plan in zip(missing, plans, strict=True)]
    mask = [[0] * gap + [1] * (width - gap) for gap in missing]
    uniforms = [Uniforms(plan.seed) for plan in plans]
    return Rows(plans, torch.tensor(ids, device=device), torch.tensor(mask, device=device), uniforms)


def plan_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices of rows that go together: similar lengths, so that little is padded, the longest first, so that a lack
    of memory shows at once.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
