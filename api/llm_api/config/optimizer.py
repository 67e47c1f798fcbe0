"""The optimizers of torch and bitsandbytes; their keys are those of the libraries."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llm_api.config.scalars import Count, Fraction, NonNegative, Number, Positive, PositiveCount
from llm_api.model import Model, Rule

Betas = Annotated[list[Annotated[Number, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)]
_LEARNING_RATE = "write trainer.learning_rate"


class _Optimizer(Model):
    refused: ClassVar = {"lr": _LEARNING_RATE, "learning_rate": _LEARNING_RATE}

    weight_decay: NonNegative = 0.0
    """Weight decay of each optimizer step."""


class _Blockwise(Model):
    percentile_clipping: Annotated[int, Field(ge=0, le=100)] = 100
    """Gradients are clipped at this percentile of recent norms; only 100, none, is left in bitsandbytes."""
    block_wise: bool = True
    """Whether each block of the 8-bit state has a scale of its own; bitsandbytes always does."""


class _Momentum(_Optimizer):
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Share of the previous update that is kept."""
    dampening: Fraction = 0.0
    """Share of the gradient that momentum leaves out."""
    nesterov: bool = False
    """Whether the gradient is looked up ahead; needs momentum and no dampening."""

    rules: ClassVar = (
        Rule(
            name="optimizer-nesterov",
            message="nesterov needs a momentum above 0 and a dampening of 0",
            holds=lambda optimizer: not optimizer.nesterov or (optimizer.momentum > 0 and optimizer.dampening == 0),
            cel="!has(self.nesterov) || !self.nesterov || (has(self.momentum) && self.momentum > 0.0"
            " && (!has(self.dampening) || self.dampening == 0.0))",
            path="nesterov",
            needs=("nesterov", "momentum", "dampening"),
        ),
    )


class _AdamLike(_Optimizer):
    betas: Betas = [0.9, 0.999]
    """Smoothing of the gradient and of its square."""
    eps: NonNegative = 1e-8
    """Added to the denominator."""


class _Amsgrad(_AdamLike):
    amsgrad: bool = False
    """Whether the largest second moment so far is used."""


class Sgd(_Momentum):
    """Stochastic gradient descent."""

    type: Literal["sgd"]
    """The optimizer."""


class Sgd8bit(_Momentum, _Blockwise):
    """The same with 8-bit state."""

    type: Literal["sgd_8bit"]
    """The optimizer."""


class Lbfgs(Model):
    """Limited-memory BFGS."""

    refused: ClassVar = _Optimizer.refused

    type: Literal["lbfgs"]
    """The optimizer."""
    max_iter: PositiveCount = 20
    """Iterations of an optimizer step."""
    max_eval: PositiveCount | None = None
    """Evaluations of an optimizer step."""
    tolerance_grad: NonNegative = 1e-7
    """Stops at gradients below this."""
    tolerance_change: NonNegative = 1e-9
    """Stops at changes below this."""
    history_size: PositiveCount = 100
    """Updates that are remembered."""
    line_search_fn: Literal["strong_wolfe"] | None = None
    """Search along the direction."""


class Adam(_Amsgrad):
    """Adam with L2 regularization."""

    type: Literal["adam"]
    """The optimizer."""


class AdamW(_Amsgrad):
    """Adam with decoupled weight decay (arXiv:1711.05101)."""

    type: Literal["adamw"]
    """The optimizer."""


class BlockwiseAdam(_Amsgrad, _Blockwise):
    """Adam and AdamW with 8-bit or paged state (arXiv:2110.02861)."""

    type: Literal["adam_8bit", "paged_adam", "paged_adam_8bit", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"]
    """The optimizer."""


class Adadelta(_Optimizer):
    """Adadelta."""

    type: Literal["adadelta"]
    """The optimizer."""
    rho: Fraction = 0.9
    """Smoothing of squared gradients."""
    eps: NonNegative = 1e-6
    """Added to the denominator."""


class _AdagradKeys(_Optimizer):
    initial_accumulator_value: NonNegative = 0.0
    """What the sum of squares starts at."""
    lr_decay: NonNegative = 0.0
    """Decay of the learning rate with each step."""
    eps: NonNegative = 1e-10
    """Added to the denominator."""


class Adagrad(_AdagradKeys):
    """Adagrad."""

    type: Literal["adagrad"]
    """The optimizer."""


class Adagrad8bit(_AdagradKeys, _Blockwise):
    """The same with 8-bit state."""

    type: Literal["adagrad_8bit"]
    """The optimizer."""


class Adamax(_AdamLike):
    """Adam over the infinity norm, and Adam with a rectified start."""

    type: Literal["adamax", "radam"]
    """The optimizer."""


class Nadam(_AdamLike):
    """Adam with Nesterov momentum."""

    type: Literal["nadam"]
    """The optimizer."""
    momentum_decay: NonNegative = 0.004
    """Decay of momentum."""


class _RmspropKeys(_Optimizer):
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Share of the previous update that is kept."""
    alpha: Fraction = 0.99
    """Smoothing of squared gradients."""
    eps: NonNegative = 1e-8
    """Added to the denominator."""
    centered: bool = False
    """Whether the gradient's variance is used."""


class Rmsprop(_RmspropKeys):
    """RMSprop."""

    type: Literal["rmsprop"]
    """The optimizer."""


class Rmsprop8bit(_RmspropKeys, _Blockwise):
    """The same with 8-bit state."""

    type: Literal["rmsprop_8bit"]
    """The optimizer."""


class Lamb(_Amsgrad, _Blockwise):
    """Adam scaled by each layer's norm (arXiv:1904.00962)."""

    type: Literal["lamb", "lamb_8bit"]
    """The optimizer."""
    bias_correction: bool = True
    """Whether the first moments are corrected for their start at zero."""
    adam_w_mode: bool = True
    """Whether weight decay is decoupled."""
    max_unorm: NonNegative = 1.0
    """Largest ratio of an update to its weight."""


class Lars(_Optimizer):
    """Momentum scaled by each layer's norm (arXiv:1708.03888)."""

    type: Literal["lars", "lars_8bit"]
    """The optimizer."""
    momentum: Annotated[Number, Field(gt=0, lt=1)] = 0.9
    """Share of the previous update that is kept."""
    dampening: Fraction = 0.0
    """Share of the gradient that momentum leaves out."""
    nesterov: bool = False
    """Whether the gradient is looked up ahead."""
    percentile_clipping: Annotated[int, Field(ge=0, le=100)] = 100
    """Only 100, none, is left in bitsandbytes."""
    max_unorm: NonNegative = 1.0
    """Largest ratio of an update to its weight."""


class Lion(_Optimizer, _Blockwise):
    """The sign of a smoothed gradient (arXiv:2302.06675)."""

    type: Literal["lion", "lion_8bit", "paged_lion", "paged_lion_8bit"]
    """The optimizer."""
    betas: Betas = [0.9, 0.999]
    """Smoothing of the update and of the gradient."""


class Adafactor(Model):
    """Adam with factored second moments (arXiv:1804.04235)."""

    refused: ClassVar = {"learning_rate": _LEARNING_RATE}

    type: Literal["adafactor"]
    """The optimizer."""
    lr: Positive | None = None
    """Null is trainer.learning_rate, unless relative_step is true."""
    scale_parameter: bool = True
    """Whether the rate is scaled by the weights' size."""
    relative_step: bool = True
    """Whether the rate follows the step's number rather than trainer.learning_rate."""
    warmup_init: bool = False
    """Whether relative steps start small."""


class ScheduleFreeAdamW(_Optimizer):
    """AdamW that needs no schedule (arXiv:2405.15682)."""

    type: Literal["schedule_free_adamw"]
    """The optimizer."""
    betas: Betas = [0.9, 0.999]
    """Smoothing of the gradient and of its square."""
    warmup_steps: Count = 0
    """Optimizer steps of warm-up."""


class Muon(Model):
    """Momentum with orthogonalized updates, for matrices."""

    refused: ClassVar = _Optimizer.refused

    type: Literal["muon"]
    """The optimizer."""
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.95
    """Share of the previous update that is kept."""
    nesterov: bool = True
    """Whether the gradient is looked up ahead."""


Optimizer = Annotated[
    Sgd | Sgd8bit | Lbfgs | Adam | AdamW | BlockwiseAdam | Adadelta | Adagrad | Adagrad8bit | Adamax | Nadam | Rmsprop
    | Rmsprop8bit | Lamb | Lars | Lion | Adafactor | ScheduleFreeAdamW | Muon,
    Field(discriminator="type"),
]  # fmt: skip
