"""How the learning rate changes during a run."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from llm_api.config.scalars import Count, Fraction, Number, Positive, PositiveCount
from llm_api.model import Model, Rule

Metric = Literal["loss", "perplexity", "next_token_accuracy"]
JudgedBy = Literal["loss", "perplexity", "next_token_accuracy", "reward_accuracy", "reward_margin"]
REWARDS = ("reward_accuracy", "reward_margin")
"""Metrics of pairs of answers, by what each is worth beside the model that training starts from."""
EvaluatedSplit = Literal["training", "validation"]


class LearningRateScheduler(Model):
    """Warm-up, decay, and reductions when the loss stops falling."""

    lookalikes: ClassVar = {
        "warmup_steps": "warmup_fraction",
        "warmup_ratio": "warmup_fraction",
        "type": "decay",
        "name": "decay",
        "lr_scheduler_type": "decay",
        "min_lr": "eta_min",
    }
    rules: ClassVar = (
        Rule(
            name="schedule-wsd-fractions",
            message="the fractions of a wsd schedule must not add up to more than 1",
            holds=lambda schedule: (
                schedule.decay != "wsd"
                or schedule.wsd_warmup_fraction + schedule.wsd_stable_fraction + schedule.wsd_decay_fraction <= 1.000001
            ),
            cel="!has(self.decay) || self.decay != 'wsd'"
            " || (has(self.wsd_warmup_fraction) ? self.wsd_warmup_fraction : 0.1)"
            " + (has(self.wsd_stable_fraction) ? self.wsd_stable_fraction : 0.8)"
            " + (has(self.wsd_decay_fraction) ? self.wsd_decay_fraction : 0.1) <= 1.000001",
            path="wsd_stable_fraction",
            needs=("decay", "wsd_warmup_fraction", "wsd_stable_fraction", "wsd_decay_fraction"),
        ),
        Rule(
            name="schedule-one-warmup",
            message="write warmup_fraction or warmup_evaluations, not both",
            holds=lambda schedule: schedule.warmup_fraction == 0.0 or schedule.warmup_evaluations == 0,
            cel="!has(self.warmup_fraction) || self.warmup_fraction == 0.0"
            " || !has(self.warmup_evaluations) || self.warmup_evaluations == 0",
            path="warmup_evaluations",
            needs=("warmup_fraction", "warmup_evaluations"),
        ),
    )

    decay: Literal["linear", "exponential", "cosine", "one_cycle", "inverse_sqrt", "polynomial", "wsd"] | None = None
    """The curve after warm-up; null keeps the rate."""
    decay_rate: Fraction = 0.96
    """exponential: the factor for each decay_steps."""
    decay_steps: PositiveCount = 10000
    """exponential: optimizer steps in which the rate falls by decay_rate."""
    staircase: bool = False
    """exponential: whether it falls in steps rather than smoothly."""
    reduce_on_plateau: Count = 0
    """How many times the rate is lowered when a metric stops getting better; 0 is never."""
    reduce_on_plateau_patience: Count = 10
    """Evaluations without a better value before that."""
    reduce_on_plateau_rate: Fraction = 0.1
    """What the rate is then multiplied by."""
    warmup_evaluations: Count = 0
    """Warm-up in evaluations' worth of optimizer steps."""
    warmup_fraction: Fraction = 0.0
    """Warm-up as a share of all optimizer steps; the rate rises from zero."""
    reduce_eval_metric: Metric = "loss"
    """The metric that reduce_on_plateau watches."""
    reduce_eval_split: EvaluatedSplit = "training"
    """The rows that it is measured on."""
    t_0: PositiveCount | None = None
    """cosine: optimizer steps to the first restart; null is no restart."""
    t_mult: PositiveCount = 1
    """cosine: how many times longer each period is than the one before."""
    eta_min: Fraction = 0.0
    """cosine: the lowest learning rate."""
    max_lr: Annotated[Number, Field(gt=0, le=1)] | None = None
    """one_cycle: the highest learning rate; null is the trainer's."""
    pct_start: Annotated[Number, Field(gt=0, lt=1)] = 0.3
    """one_cycle: the share of the run in which the rate rises."""
    div_factor: Positive = 25.0
    """one_cycle: the first rate is the highest divided by this."""
    final_div_factor: Positive = 10000.0
    """one_cycle: the last rate is the first divided by this."""
    inverse_sqrt_warmup_steps: PositiveCount = 4000
    """inverse_sqrt: optimizer steps in which the rate rises, and the scale of its fall."""
    polynomial_power: Positive = 1.0
    """polynomial: the exponent; 1 is a straight line."""
    polynomial_end_lr: Fraction = 0.0
    """polynomial: the last learning rate."""
    wsd_warmup_fraction: Fraction = 0.1
    """wsd: the share of the run in which the rate rises."""
    wsd_stable_fraction: Fraction = 0.8
    """wsd: the share in which it stays."""
    wsd_decay_fraction: Fraction = 0.1
    """wsd: the share in which it falls."""


class GradientClipping(Model):
    """Bounds on gradients; null is no bound."""

    null_means: ClassVar = "no bound at all"
    lookalikes: ClassVar = {"max_grad_norm": "clipglobalnorm", "norm": "clipnorm", "value": "clipvalue"}

    clipglobalnorm: Positive | None = 0.5
    """Largest L2 norm of all gradients together."""
    clipnorm: Positive | None = None
    """Largest L2 norm of each parameter's gradient."""
    clipvalue: Positive | None = None
    """Largest absolute value of an element."""

    @model_validator(mode="before")
    @classmethod
    def _read_null(cls, value: Any) -> Any:
        return {"clipglobalnorm": None} if value is None else value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [handler(schema), {"type": "null"}]}
