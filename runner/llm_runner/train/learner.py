"""One optimizer step: forward passes over its rows, gradients, clipping, update. Knows no steps before or after.

``state_dict`` is all that a step depends on besides its rows and the random numbers.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from llm_runner.errors import Diverged
from llm_runner.train.batch import Item, count_targets, split_by_tokens
from llm_runner.train.checkpoint import Snapshot
from llm_runner.train.device import random_state, set_random_state
from llm_runner.train.evaluate import LooksAhead, Sums
from llm_runner.train.forward import Forward
from llm_runner.train.master import MasterWeights, build_masters
from llm_runner.train.ranks import ALONE, Ranks
from llm_runner.train.sharding import (
    is_shared_out,
    share_optimizer_state,
    to_share_of,
    to_whole,
    to_wholes,
    total_norm,
)

RATE_RATIO = "rate_ratio"
"""In a group of an optimizer's parameters: how many times faster than others they learn; absent is once."""


class Allocator(Protocol):
    """What an adapter does between steps, and what it remembers (AdaLoRA's rank budget)."""

    def penalty(self) -> torch.Tensor | None: ...
    def after_update(self, step: int) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Clipping:
    """Bounds on gradients; None is no bound."""

    global_norm: float | None = None
    """L2 norm over all parameters together."""
    norm: float | None = None
    """L2 norm of each parameter."""
    value: float | None = None
    """Absolute value of each element."""


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step saw."""

    sums: Sums
    """Over all rows of the step."""
    tokens: int
    """Tokens of its rows; there is no padding among them."""

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood of a target token, in nats; or the mean of the pairs' loss."""
        return self.sums.to_evaluation().loss

    @property
    def targets(self) -> int:
        return self.sums.targets

    @property
    def correct(self) -> int:
        """Targets that were the most likely token."""
        return self.sums.correct


@dataclass
class Learner:
    """A model and what updates it."""

    model: PreTrainedModel
    forward: Forward
    optimizer: torch.optim.Optimizer
    """Of ``masters.parameters``."""
    tokens_per_forward: int
    most_rows_per_forward: int | None = field(default=None, kw_only=True)
    clipping: Clipping = Clipping()
    allocator: Allocator | None = None
    regularization: Callable[[Sequence[torch.nn.Parameter]], torch.Tensor] | None = None
    autocast_dtype: torch.dtype | None = None
    divisor: Callable[[Sequence[Any]], int] = count_targets
    """What the loss of a step's rows is summed over."""
    masters: MasterWeights = field(default_factory=lambda: MasterWeights({}, {}))
    """Empty is those of a model that trains no 16-bit weights."""
    ranks: Ranks = ALONE
    spare: Any = None
    """A row for passes that take all processes when this one has none left."""

    def __post_init__(self) -> None:
        if not self.masters.trained:
            self.masters = build_masters(self.model)

    @property
    def trained(self) -> Mapping[str, torch.nn.Parameter]:
        return self.masters.trained

    def take_step(self, rows: Sequence[Sized], learning_rate: float, step: int) -> StepResult:
        """``rows``: this process's part of the step's. Raises Diverged, leaving the weights as they were, when the loss
        or a gradient is no number.
        """
        self.model.train()
        if isinstance(self.forward, LooksAhead):
            self.forward.look_ahead(rows, self.tokens_per_forward)
        (divisor,), sums = self.ranks.total([self.divisor(rows)]), Sums()
        for group, counts in self.ranks.passes(self._groups(rows), lambda: self.spare):
            with self._autocast():
                part = self.forward(group)
            (part.trained * (counts / divisor)).backward()
            self.masters.take_gradients()
            if counts:
                sums.add(part)
        (tokens,) = self.ranks.total([sum(map(len, rows))])
        result = StepResult(sums.over(self.ranks), int(tokens))
        if not math.isfinite(result.loss):
            raise Diverged(describe_divergence("loss", result.loss, step, learning_rate))
        self._update(learning_rate, step)
        return result

    def try_pass(self, rows: Sequence[Sized]) -> None:
        """One forward and backward pass of which nothing stays: no gradient, no weight, no random number drawn."""
        drawn = random_state(self.model.device)
        self.model.train()
        try:
            with self._autocast():
                part = self.forward(rows)
            part.trained.backward()
            self.masters.take_gradients()
        finally:
            for value in (*self.trained.values(), *self.masters.parameters):
                value.grad = None
            set_random_state(drawn, self.model.device)

    def snapshot(self) -> Snapshot:
        """Of whole tensors, so that any number of processes can go on from it. All of them must call it."""
        return Snapshot(
            weights={name: to_whole(value.detach()) for name, value in self.trained.items()},
            state={
                "masters": to_wholes(self.masters.state_dict()),
                "optimizer": to_wholes(self.optimizer.state_dict()),
                "allocator": {} if self.allocator is None else self.allocator.state_dict(),
                "random": random_state(self.model.device),
            },
        )

    def restore(self, snapshot: Snapshot) -> None:
        self.load_weights(snapshot.weights)
        self.masters.load_state_dict(snapshot.state["masters"])
        updated = [value for group in self.optimizer.param_groups for value in group["params"]]
        self.optimizer.load_state_dict(share_optimizer_state(snapshot.state["optimizer"], updated))
        if self.allocator is not None:
            self.allocator.load_state_dict(snapshot.state["allocator"])
        set_random_state(snapshot.state["random"], self.model.device)

    def forget(self) -> None:
        """Frees what only a next step would need."""
        self.optimizer.state.clear()

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, value in self.trained.items():
                value.copy_(to_share_of(weights[name], value))

    def _groups(self, rows: Sequence[Item]) -> Iterator[list[Item]]:
        """The rows of each forward pass."""
        most_rows = self.most_rows_per_forward
        return split_by_tokens(rows, self.tokens_per_forward, pads=self.forward.pads, most_rows=most_rows)

    def _autocast(self) -> torch.autocast:
        device = self.model.device.type
        return torch.autocast(device, dtype=self.autocast_dtype, enabled=self.autocast_dtype is not None)

    def _update(self, learning_rate: float, step: int) -> None:
        parameters = self.masters.parameters
        self.ranks.sum_gradients(parameters)
        if (penalty := self._penalty(parameters)) is not None:
            penalty.backward()
        norm = total_norm([value.grad for value in parameters if value.grad is not None])
        if not math.isfinite(norm):
            raise Diverged(describe_divergence("norm of the gradients", float(norm), step, learning_rate))
        _clip(parameters, self.clipping, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group.get(RATE_RATIO, 1.0)
        self.optimizer.step()
        self.masters.give_back()
        if self.allocator is not None:
            self.allocator.after_update(step)
        self.optimizer.zero_grad(set_to_none=True)

    def _penalty(self, parameters: Sequence[torch.nn.Parameter]) -> torch.Tensor | None:
        parts = [
            None if self.allocator is None else self.allocator.penalty(),
            None if self.regularization is None else self.regularization(parameters),
        ]
        present = [part for part in parts if part is not None]
        return torch.stack(present).sum() if present else None


Regularization = Callable[[Sequence[torch.nn.Parameter]], torch.Tensor]


def build_regularization(kind: str | None, weight: float) -> Regularization | None:
    """l1, l2 or the sum of both over the trained parameters, times ``weight``."""
    if kind is None or weight == 0.0:
        return None

    def penalty(parameters: Sequence[torch.nn.Parameter]) -> torch.Tensor:
        total = torch.zeros((), device=parameters[0].device)
        for parameter in parameters:
            if "l1" in kind:
                total = total + parameter.abs().sum()
            if "l2" in kind:
                total = total + parameter.square().sum()
        return weight * total

    return penalty


def _clip(parameters: Sequence[torch.nn.Parameter], clipping: Clipping, norm: torch.Tensor) -> None:
    """``norm``: of all gradients together."""
    if clipping.global_norm is not None:
        _clip_by_norm(parameters, clipping.global_norm, norm)
    if clipping.norm is not None:
        for parameter in parameters:
            if parameter.grad is not None:
                _clip_by_norm([parameter], clipping.norm, total_norm([parameter.grad]))
    if clipping.value is not None:
        for parameter in parameters:
            torch.nn.utils.clip_grad_value_(parameter, clipping.value, foreach=False)


def _clip_by_norm(parameters: Sequence[torch.nn.Parameter], bound: float, norm: torch.Tensor) -> None:
    """One kind of tensors at a time, as torch can't take shared-out ones with others."""
    for is_shared in (False, True):
        alike = [value for value in parameters if is_shared_out(value) is is_shared]
        torch.nn.utils.clip_grads_with_norm_(alike, bound, norm)


def describe_divergence(what: str, found: float, step: int, learning_rate: float) -> str:
    """``step`` is the number of steps that were done before."""
    return (
        f"the {what} became {found} at step {step + 1} with learning rate {learning_rate:.3g}; lower "
        "trainer.learning_rate, add learning_rate_scheduler.warmup_fraction, or set gradient_clipping.clipglobalnorm"
    )
