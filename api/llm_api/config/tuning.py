"""The keys that trainers share: amounts, batches, intervals, schedule. Which trainers there are is in ``trainer``."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llm_api.config.optimizer import AdamW, Optimizer
from llm_api.config.scalars import Auto, Count, Fraction, Name, NonNegative, Number, PositiveCount, compiles
from llm_api.config.schedule import (
    REWARDS,
    EvaluatedSplit,
    GradientClipping,
    JudgedBy,
    LearningRateScheduler,
    Metric,
)
from llm_api.model import Model, Rule

BatchSize = Annotated[int, Field(ge=1, le=2**20)]
WITH_REWARDS = ("dpo", "kto")
"""Types of trainers that compare pairs with a reference."""
LearningRate = Annotated[Number, Field(ge=0, le=1)]

AUTO_LEARNING_RATE = 1e-4
AUTO_ROWS_PER_STEP = 16
"""Rows of an optimizer step where the config leaves the choice to us."""

_TABULAR = "it belongs to models with several outputs or inputs"
_TABULAR_KEYS = (
    "loss_balancing", "loss_balancing_alpha", "loss_balancing_lr", "loss_balancing_preference_vector",
    "loss_balancing_tchebycheff_weight", "contrastive_pretrain_epochs", "contrastive_pretrain_temperature",
    "contrastive_pretrain_projection_dim", "contrastive_pretrain_learnable_temperature", "modality_dropout",
)  # fmt: skip
REFUSED = {
    **dict.fromkeys(_TABULAR_KEYS, _TABULAR),
    "enable_profiling": "profiles are taken with the platform's own tools",
    "profiler": "profiles are taken with the platform's own tools",
    "bucketing_field": "sequences are packed without padding, so nothing is gained by sorting them",
    "packing": "sequences are always packed",
    "packing_max_sequences_per_pack": "sequences are always packed",
    "base_learning_rate": "write learning_rate",
    "model_soup": "the best checkpoint is kept; averaging several is not there yet",
    "model_soup_top_k": "the best checkpoint is kept; averaging several is not there yet",
}  # fmt: skip
LOOKALIKES = {
    "lr": "learning_rate",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "max_steps": "train_steps",
    "per_device_train_batch_size": "batch_size",
    "per_device_eval_batch_size": "eval_batch_size",
    "gradient_accumulation": "gradient_accumulation_steps",
    "scheduler": "learning_rate_scheduler",
    "lr_scheduler": "learning_rate_scheduler",
    "max_grad_norm": "gradient_clipping.clipglobalnorm",
    "weight_decay": "optimizer.weight_decay",
    "warmup_steps": "learning_rate_scheduler.warmup_fraction",
    "warmup_ratio": "learning_rate_scheduler.warmup_fraction",
    "gradient_checkpointing": "enable_gradient_checkpointing",
    "early_stopping": "early_stop",
}


class BaseTrainer(Model):
    refused: ClassVar = REFUSED
    lookalikes: ClassVar = LOOKALIKES
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="trainer-checkpoint-interval",
            message="write steps_per_checkpoint or checkpoints_per_epoch, not both",
            holds=lambda trainer: trainer.steps_per_checkpoint == 0 or trainer.checkpoints_per_epoch == 0,
            cel="!has(self.steps_per_checkpoint) || self.steps_per_checkpoint == 0"
            " || !has(self.checkpoints_per_epoch) || self.checkpoints_per_epoch == 0",
            path="checkpoints_per_epoch",
            needs=("steps_per_checkpoint", "checkpoints_per_epoch"),
        ),
        Rule(
            name="rewards-need-pairs",
            message="rewards are those of pairs of answers beside a reference, which `type: dpo` and `type: kto` have; "
            "write loss",
            holds=lambda trainer: trainer.validation_metric not in REWARDS or trainer.type in WITH_REWARDS,
            cel=f"!has(self.validation_metric) || !(self.validation_metric in {list(REWARDS)})"
            f" || self.type in {list(WITH_REWARDS)}",
            path="validation_metric",
            needs=("validation_metric", "type"),
        ),
    )

    learning_rate: LearningRate | Auto = AUTO_LEARNING_RATE
    """Learning rate at its highest; auto is the default."""
    epochs: PositiveCount = 3
    """Passes over the training rows."""
    train_steps: PositiveCount | None = None
    """Optimizer steps; written, it counts instead of epochs."""
    eval_steps: NonNegative | None = None
    """Batches of an evaluation; null is all of the hold-out."""
    steps_per_checkpoint: Count = 0
    """Optimizer steps from one evaluation and checkpoint to the next; 0 is by epoch."""
    checkpoints_per_epoch: Count = 0
    """Evaluations and checkpoints in an epoch; 0 is one at its end."""
    batch_size: BatchSize | Auto | None = 1
    """Rows that go through the model at a time; auto is what fits."""
    eval_batch_size: BatchSize | Auto | None = 2
    """Rows of an evaluation's batch; auto or null is what fits."""
    early_stop: Annotated[int, Field(ge=-1)] = 5
    """Evaluations without a better validation_metric before the run stops; -1 or 0 is never."""
    should_shuffle: bool = True
    """Whether each epoch has an order of its own."""
    evaluate_training_set: bool = False
    """Whether evaluations measure the training rows too."""
    skip_all_evaluation: bool = False
    """Whether nothing is evaluated while training; the last weights are then kept."""
    validation_metric: JudgedBy | None = None
    """What decides which weights are best; null is loss."""
    validation_field: Name | None = None
    """The output that this is measured on; there is one, so only its name is accepted."""


class TuningTrainer(BaseTrainer):
    """What all trainers that train have in common."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="trainer-batch-arithmetic",
            message="effective_batch_size must be batch_size * gradient_accumulation_steps; leave one of the three out",
            holds=lambda trainer: trainer.batch_fits(),
            path="effective_batch_size",
            needs=("effective_batch_size", "batch_size", "gradient_accumulation_steps"),
        ),
        Rule(
            name="trainer-batch-maximum",
            message="batch_size may not be more than max_batch_size",
            holds=lambda trainer: (
                not isinstance(trainer.batch_size, int)
                or trainer.max_batch_size is None
                or trainer.batch_size <= trainer.max_batch_size
            ),
            cel="!has(self.max_batch_size) || !has(self.batch_size) || type(self.batch_size) != int"
            " || self.batch_size <= self.max_batch_size",
            path="batch_size",
            needs=("batch_size", "max_batch_size"),
        ),
        Rule(
            name="trainer-batch-growth",
            message="a batch that grows needs increase_batch_size_on_plateau_rate > 1, such as 2",
            holds=lambda trainer: (
                trainer.increase_batch_size_on_plateau == 0 or trainer.increase_batch_size_on_plateau_rate > 1
            ),
            cel="!has(self.increase_batch_size_on_plateau) || self.increase_batch_size_on_plateau == 0"
            " || !has(self.increase_batch_size_on_plateau_rate) || self.increase_batch_size_on_plateau_rate > 1.0",
            path="increase_batch_size_on_plateau_rate",
            needs=("increase_batch_size_on_plateau", "increase_batch_size_on_plateau_rate"),
        ),
        Rule(
            name="freeze-regex-compiles",
            message="this is not a regular expression that compiles; mend it, such as layers[.][0-3][.]",
            holds=lambda trainer: trainer.layers_to_freeze_regex is None or compiles(trainer.layers_to_freeze_regex),
            path="layers_to_freeze_regex",
            needs=("layers_to_freeze_regex",),
        ),
    )

    learning_rate_scheduler: LearningRateScheduler = LearningRateScheduler()
    """How the learning rate changes."""
    effective_batch_size: BatchSize | Auto = "auto"
    """Rows of an optimizer step; auto is batch_size * gradient_accumulation_steps."""
    gradient_accumulation_steps: BatchSize | Auto = "auto"
    """Batches of an optimizer step; auto follows from the other two, else it is chosen."""
    max_batch_size: PositiveCount | None = None
    """The most that batch_size: auto may choose, and that a written batch_size may grow to."""
    optimizer: Optimizer = AdamW(type="adamw")
    """The optimizer and its keys."""
    regularization_type: Literal["l1", "l2", "l1_l2"] | None = "l2"
    """Penalty on trained weights."""
    regularization_lambda: Fraction = 0.0
    """Its weight; 0 is none."""
    increase_batch_size_on_plateau: Count = 0
    """How many times a step's rows grow when a metric stops getting better; 0 is never."""
    increase_batch_size_on_plateau_patience: Count = 5
    """Evaluations without a better value before that."""
    increase_batch_size_on_plateau_rate: NonNegative = 2.0
    """How many times more rows a step then takes; more than 1."""
    increase_batch_size_eval_metric: Metric = "loss"
    """The metric that decides it."""
    increase_batch_size_eval_split: EvaluatedSplit = "training"
    """The rows that it is measured on."""
    gradient_clipping: GradientClipping = GradientClipping()
    """Bounds on gradients."""
    learning_rate_scaling: Literal["constant", "sqrt", "linear"] = "linear"
    """How the rate would grow with a step's rows if several devices made them more; here they share the rows that are
    written, so the rate stays as it is written, whichever is chosen."""
    use_mixed_precision: bool = False
    """Whether a float32 model computes in 16 bits where that is safe."""
    compile: bool = False
    """Whether the model is compiled first."""
    enable_gradient_checkpointing: bool = False
    """Whether activations are computed again in backward, to save memory."""
    layers_to_freeze_regex: Name | None = None
    """Without an adapter: weights whose name it matches are not trained."""

    def batch_fits(self) -> bool:
        """Whether the three batch keys, where all are numbers, agree."""
        size, steps, effective = self._batch_keys
        if not isinstance(effective, int):
            return True
        if isinstance(size, int) and isinstance(steps, int):
            return size * steps == effective
        known = size if isinstance(size, int) else steps
        return not isinstance(known, int) or effective % known == 0

    def rows_per_step(self) -> int:
        """Rows of an optimizer step, by what is written of the three batch keys."""
        if isinstance(self.effective_batch_size, int):
            return self.effective_batch_size
        if isinstance(self.gradient_accumulation_steps, int):
            return self.rows_per_forward() * self.gradient_accumulation_steps
        return self.rows_per_forward() * (1 if isinstance(self.batch_size, int) else AUTO_ROWS_PER_STEP)

    @property
    def leaves_rows_open(self) -> bool:
        """Whether nothing says how many rows a step has, so that it may be a few more where devices share them."""
        return not any(isinstance(value, int) for value in self._batch_keys)

    def rows_per_forward(self) -> int:
        """batch_size, where it is a number; else one row, as the packed loop fills a pass by tokens anyway."""
        return self.batch_size if isinstance(self.batch_size, int) else 1

    @property
    def _batch_keys(self) -> tuple[int | str | None, int | str, int | str]:
        return self.batch_size, self.gradient_accumulation_steps, self.effective_batch_size

    def resolved_learning_rate(self) -> float:
        return AUTO_LEARNING_RATE if self.learning_rate == "auto" else float(self.learning_rate)
